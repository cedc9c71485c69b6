//! stub
use crate::model::*;
impl crate::proxy::Plane {
    pub fn welcome(&self, _ip: std::net::IpAddr) {}
    pub fn send_away(
        &self,
        _ip: std::net::IpAddr,
        _r: Reason,
    ) -> impl std::future::Future<Output = usize> + Send + 'static {
        async { 0 }
    }
}

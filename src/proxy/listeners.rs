//! The listening sockets of one cluster, and how a reload changes them without losing a client.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use crate::model::{ListenAddress, ServiceName, ServiceSpec};

use super::listener::{Inlet, ListenError, Place, explain};
use super::service::Service;

/// An open socket.
#[derive(Debug)]
pub(super) struct Door {
    place: Place,
    pub inlet: Arc<Inlet>,
    pub service: Arc<ArcSwap<Service>>,
    pub stop: CancellationToken,
}

impl Door {
    /// No new clients, after those that the kernel has accepted already.
    pub fn close(&self) {
        self.inlet.remove_file();
        self.stop.cancel();
    }
}

/// One socket that a configuration wants.
#[derive(Debug)]
struct Wanted {
    spec: Arc<ServiceSpec>,
    place: Place,
    /// None: it is open already, or this kernel does not have its family.
    opened: Option<Arc<Inlet>>,
}

/// Every socket that a configuration wants and that was not open yet, bound. Its drop closes them.
#[derive(Debug)]
pub struct Prepared {
    specs: Vec<Arc<ServiceSpec>>,
    wanted: Vec<Wanted>,
}

impl Prepared {
    pub(super) fn specs(&self) -> &[Arc<ServiceSpec>] {
        &self.specs
    }
}

/// A socket that [`Doors::switch`] has opened and that nobody accepts from yet.
pub(super) type Opened = Arc<Door>;

#[derive(Debug, Default)]
pub(super) struct Doors {
    open: Vec<Arc<Door>>,
}

impl Doors {
    /// Binds what is not open. Sockets that nothing overlaps listen at once, which proves that no
    /// other process has them; the others, and their neighbours on the port, must wait for
    /// [`Doors::switch`], or they would take clients away from what is still in service.
    pub fn prepare(&self, specs: &[Arc<ServiceSpec>]) -> Result<Prepared, Vec<ListenError>> {
        let (mut wanted, mut addresses, mut errors) = (Vec::new(), Vec::new(), Vec::new());
        for spec in specs {
            for address in &spec.listen {
                match Place::all(address) {
                    Ok(places) => {
                        for place in places {
                            wanted.push(Wanted { spec: spec.clone(), place, opened: None });
                            addresses.push(address);
                        }
                    }
                    Err(error) => errors.push(explain(&spec.name, address, error)),
                }
            }
        }
        let kept = self.kept(&wanted);
        let staying: Vec<Arc<Inlet>> = kept.iter().flatten().map(|door| door.inlet.clone()).collect();
        let mut complain = |wanted: &Wanted, address: &ListenAddress, error| {
            errors.push(explain(&wanted.spec.name, address, error));
        };
        for ((one, address), kept) in wanted.iter_mut().zip(&addresses).zip(&kept) {
            if kept.is_none() {
                match Inlet::bind(&one.place, &one.spec, &staying) {
                    Ok(opened) => one.opened = opened,
                    Err(error) => complain(one, address, error),
                }
            }
        }
        let waiting: Vec<u16> = waiting_ports(&wanted);
        for (one, address) in wanted.iter().zip(&addresses) {
            if let Some(Err(error)) =
                one.opened.as_ref().filter(|inlet| !waits(inlet, &waiting)).map(|inlet| inlet.listen())
            {
                complain(one, address, error);
            }
        }
        if errors.is_empty() { Ok(Prepared { specs: specs.to_vec(), wanted }) } else { Err(errors) }
    }

    /// The open socket that serves each of `wanted`: that of the same service if there is one, then
    /// that of any.
    fn kept(&self, wanted: &[Wanted]) -> Vec<Option<Arc<Door>>> {
        let mut free: Vec<&Arc<Door>> = self.open.iter().collect();
        let mut take = |fits: &dyn Fn(&Door) -> bool| {
            let index = free.iter().position(|door| fits(door))?;
            Some(free.remove(index).clone())
        };
        let of_same =
            |one: &Wanted, door: &Door| door.place.is_same_as(&one.place) && door.service.load().name == one.spec.name;
        let mut kept: Vec<Option<Arc<Door>>> = wanted.iter().map(|one| take(&|door| of_same(one, door))).collect();
        for (one, kept) in wanted.iter().zip(&mut kept).filter(|(one, kept)| kept.is_none() && !one.place.is_any_port())
        {
            *kept = take(&|door| door.place.is_same_as(&one.place));
        }
        kept
    }

    /// Opens what was prepared, hands over what stays, closes the rest. Returns the sockets that wait
    /// for someone to accept.
    pub fn switch(
        &mut self,
        prepared: Prepared,
        service: impl Fn(&ServiceName) -> Option<Arc<Service>>,
        stop: &CancellationToken,
    ) -> Vec<Opened> {
        let waiting = waiting_ports(&prepared.wanted);
        let mut doors: Vec<Option<Arc<Door>>> = self.kept(&prepared.wanted);
        for (one, door) in prepared.wanted.iter().zip(&doors) {
            if let (Some(door), Some(service)) = (door, service(&one.spec.name)) {
                door.service.store(service);
                door.inlet.set_options(&one.spec);
            }
        }
        let is_new = |index: &usize| doors[*index].is_none();
        let mut new: Vec<usize> = (0..doors.len()).filter(is_new).collect();
        // Those that share a port go first: see `forget_sharing`.
        new.sort_by_key(|index| prepared.wanted[*index].opened.as_ref().is_some_and(|inlet| !inlet.is_joined()));
        let mut opened = Vec::new();
        for index in new {
            let one = &prepared.wanted[index];
            let (Some(inlet), Some(service)) = (one.opened.clone(), service(&one.spec.name)) else { continue };
            let outcome = if waits(&inlet, &waiting) { inlet.listen() } else { Ok(()) };
            if let Err(error) = outcome.and_then(|()| inlet.reveal()) {
                let (service, place) = (&*one.spec.name, &one.place);
                tracing::error!(target: "pgvane::listen", service, ?place, %error, "cannot listen where it was possible a moment ago");
                continue;
            }
            let service = Arc::new(ArcSwap::new(service));
            let door = Arc::new(Door { place: one.place.clone(), inlet, service, stop: stop.child_token() });
            doors[index] = Some(door.clone());
            opened.push(door);
        }
        let open: Vec<Arc<Door>> = doors.into_iter().flatten().collect();
        let leaving = std::mem::replace(&mut self.open, open);
        for door in leaving.iter().filter(|door| !self.open.iter().any(|open| Arc::ptr_eq(open, door))) {
            door.close();
        }
        opened
    }

    /// The sockets are closed by their acceptors, who have the last of them then.
    pub fn close_all(&mut self) {
        self.open.drain(..).for_each(|door| door.close());
    }

    /// Where a service listens on TCP, in the order of its configuration.
    pub fn addresses(&self, service: &str) -> Vec<SocketAddr> {
        let of_service = self.open.iter().filter(|door| &*door.service.load().name == service);
        of_service.filter_map(|door| door.inlet.address()).collect()
    }
}

fn waiting_ports(wanted: &[Wanted]) -> Vec<u16> {
    let joined = wanted.iter().filter_map(|one| one.opened.as_ref()).filter(|inlet| inlet.is_joined());
    joined.filter_map(|inlet| inlet.address()).map(|address| address.port()).collect()
}

fn waits(inlet: &Inlet, ports: &[u16]) -> bool {
    inlet.address().is_some_and(|address| ports.contains(&address.port()))
}

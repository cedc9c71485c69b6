//! TLS towards a member's REST API: whom to believe, and who we are.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// PEM texts, already read from their files.
#[derive(Clone, Default)]
pub struct TlsMaterial {
    /// Without one, the system's roots are believed.
    pub ca: Option<Vec<u8>>,
    /// The client certificate with its chain; needs `key`.
    pub cert: Option<Vec<u8>>,
    pub key: Option<Vec<u8>>,
}

/// One configuration serves every probe: sessions are resumed, which halves their cost.
pub fn client_config(material: &TlsMaterial) -> Result<Arc<ClientConfig>, String> {
    let roots = roots(material.ca.as_deref())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let config = match (&material.cert, &material.key) {
        (None, None) => builder.with_no_client_auth(),
        (Some(cert), Some(key)) => {
            let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("the client key: {error}"))?;
            builder
                .with_client_auth_cert(certificates(cert, "the client certificate")?, key)
                .map_err(|error| format!("the client certificate and its key: {error}"))?
        }
        _ => return Err("a client certificate needs both the certificate and its key".into()),
    };
    Ok(Arc::new(config))
}

fn roots(ca: Option<&[u8]>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(pem) => {
            for certificate in certificates(pem, "the CA file")? {
                roots.add(certificate).map_err(|error| format!("the CA file: {error}"))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err("the system has no root certificates; name a CA file".into());
            }
        }
    }
    Ok(roots)
}

fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|error| format!("{what}: {error}"))?;
    if all.is_empty() { Err(format!("{what} holds no certificate in PEM")) } else { Ok(all) }
}

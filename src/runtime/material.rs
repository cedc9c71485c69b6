//! Passwords and certificates, as their files hold them at this moment.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::config::{EtcdSpec, TlsFiles};
use crate::dcs::etcd::{EtcdAccess, EtcdTls};
use crate::probe::tls::{TlsMaterial, client_config};

type Pem = Option<Vec<u8>>;

/// The files are read and understood now, because a connect in the middle of the night is a bad time to
/// find out.
///
/// # Errors
/// Which file is wrong, and why.
pub fn etcd_access(spec: &EtcdSpec) -> Result<EtcdAccess, String> {
    let tls = match &spec.tls {
        None => None,
        Some(files) => {
            let (ca, cert, key) = read(files)?;
            understand(files, &ca, &cert, &key)?;
            Some(EtcdTls { ca, cert, key })
        }
    };
    let password = spec.password.as_ref().map(|secret| secret.reveal().to_owned());
    Ok(EtcdAccess { endpoints: spec.endpoints.clone(), username: spec.username.clone(), password, tls })
}

/// Members may have an https address without any `patroni.tls`: the system's roots are believed then.
///
/// # Errors
/// Which file is wrong, and why.
pub fn api_tls(files: Option<&TlsFiles>) -> Result<Option<Arc<ClientConfig>>, String> {
    let (ca, cert, key) = files.map(read).transpose()?.unwrap_or_default();
    match client_config(&TlsMaterial { ca, cert, key }) {
        Ok(config) => Ok(Some(config)),
        // Without roots on this machine only plain http can be asked, which is fine unless asked for.
        Err(_) if files.is_none() => Ok(None),
        Err(problem) => Err(problem),
    }
}

fn read(files: &TlsFiles) -> Result<(Pem, Pem, Pem), String> {
    let read = |path: &Option<PathBuf>| -> Result<Pem, String> {
        let Some(path) = path else { return Ok(None) };
        fs::read(path).map(Some).map_err(|error| format!("{}: cannot be read: {error}", path.display()))
    };
    Ok((read(&files.ca)?, read(&files.cert)?, read(&files.key)?))
}

/// What the etcd client would only tell at its first connect.
fn understand(files: &TlsFiles, ca: &Pem, cert: &Pem, key: &Pem) -> Result<(), String> {
    let named = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    if let Some(pem) = ca {
        certificates(pem).map_err(|problem| format!("{}: {problem}", named(&files.ca)))?;
    }
    let (Some(cert), Some(key)) = (cert, key) else { return Ok(()) };
    let chain = certificates(cert).map_err(|problem| format!("{}: {problem}", named(&files.cert)))?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("{}: {error}", named(&files.key)))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(RootCertStore::empty())
        .with_client_auth_cert(chain, key)
        .map(drop)
        .map_err(|error| format!("{} and {}: {error}", named(&files.cert), named(&files.key)))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|error| error.to_string())?;
    if all.is_empty() { Err("holds no certificate in PEM".to_owned()) } else { Ok(all) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    /// A certificate and its key.
    fn pair() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["etcd".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn access_differs_when_only_a_files_content_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.crt");
        let tls = TlsFiles { ca: Some(path.clone()), ..TlsFiles::default() };
        let spec = EtcdSpec { endpoints: vec!["https://e:2379".to_owned()], tls: Some(tls), ..EtcdSpec::default() };
        fs::write(&path, pair().0).unwrap();
        let first = etcd_access(&spec).unwrap();
        assert!(first == etcd_access(&spec).unwrap());
        fs::write(&path, pair().0).unwrap();
        assert!(first != etcd_access(&spec).unwrap());
        let secret = EtcdSpec { password: Some(Secret::new("new".to_owned())), ..spec.clone() };
        assert!(etcd_access(&spec).unwrap() != etcd_access(&secret).unwrap());
    }

    #[test]
    fn what_etcd_would_never_be_reached_with_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let (cert, key) = pair();
        fs::write(at("cert"), &cert).unwrap();
        fs::write(at("key"), &key).unwrap();
        fs::write(at("other"), pair().1).unwrap();
        fs::write(at("torn"), &cert[..cert.len() / 2]).unwrap();
        let tried = |ca: Option<&str>, cert: Option<&str>, key: Option<&str>| {
            let tls = TlsFiles { ca: ca.map(at), cert: cert.map(at), key: key.map(at) };
            etcd_access(&EtcdSpec { tls: Some(tls), ..EtcdSpec::default() }).map(|_| ())
        };
        assert_eq!(tried(Some("cert"), Some("cert"), Some("key")), Ok(()));
        assert!(tried(Some("torn"), None, None).unwrap_err().contains("torn"));
        assert!(tried(None, Some("cert"), Some("other")).unwrap_err().contains("other"));
        assert!(tried(None, Some("cert"), Some("cert")).is_err());
        assert!(tried(Some("nowhere"), None, None).unwrap_err().contains("cannot be read"));
    }
}

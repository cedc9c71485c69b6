//! How to reach etcd and Patroni: endpoints, secrets and certificates.

use std::io;

use super::diagnose::{At, Sink};
use super::fields::Written;
use super::listen::is_host;
use super::resolve::Around;
use super::{EtcdSpec, Secret, TlsFiles, schema};
use crate::model::HostPort;

pub(super) fn resolve(written: &schema::Etcd, around: &Around<'_>) -> EtcdSpec {
    let endpoints = endpoints(written, around.sink);
    check_scheme(written, &endpoints, around.sink);
    let password = password(written, around);
    match (&written.username, written.password_given) {
        (Some(username), false) => {
            let sentence = "`username` without a password: add `password_file` or `password_env`";
            around.sink.report(username.at, sentence);
        }
        (None, true) if !written.username_given => {
            around.sink.report(password_place(written), "a password without a `username`")
        }
        _ => {}
    }
    EtcdSpec {
        endpoints: endpoints.into_iter().map(|endpoint| endpoint.value).collect(),
        username: written.username.as_ref().map(|username| username.value.clone()),
        password,
        tls: written.tls.as_ref().map(|tls| resolve_tls(tls, around)),
    }
}

/// The files of a `tls` block, after a look into each.
pub(super) fn resolve_tls(tls: &schema::Tls, around: &Around<'_>) -> TlsFiles {
    match (&tls.cert, &tls.key) {
        (Some(cert), None) => {
            around.sink.report(cert.at, "`cert` without a `key`: a certificate needs its private key")
        }
        (None, Some(key)) => around.sink.report(key.at, "`key` without a `cert`: a private key needs its certificate"),
        _ => {}
    }
    let path = |written: &Option<Written<String>>, wanted: Pem| {
        written.as_ref().map(|path| {
            look_into(path, wanted, around);
            around.path(&path.value)
        })
    };
    TlsFiles {
        ca: path(&tls.ca, Pem::Certificate),
        cert: path(&tls.cert, Pem::Certificate),
        key: path(&tls.key, Pem::PrivateKey),
    }
}

fn endpoints(written: &schema::Etcd, sink: &Sink) -> Vec<Written<String>> {
    let mut read: Vec<Written<String>> = Vec::new();
    let given = written.endpoints.as_deref();
    if given.is_some_and(|given| given.is_empty()) {
        sink.report(written.at, "`endpoints` is empty: at least one is needed");
    }
    for endpoint in given.unwrap_or_default() {
        match endpoint_url(&endpoint.value) {
            Ok(url) => match read.iter().find(|other| other.value == url) {
                Some(other) => {
                    let place = format!("line {}, column {}", other.at.line, other.at.column);
                    sink.report(endpoint.at, format!("`{url}` is given twice; the first one is at {place}"));
                }
                None => read.push(Written { value: url, at: endpoint.at }),
            },
            Err(sentence) => sink.report(endpoint.at, sentence),
        }
    }
    read
}

/// `scheme://host:port`, nothing after it, the port always there.
fn endpoint_url(text: &str) -> Result<String, String> {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme @ ("http" | "https"), rest)) => (scheme, rest.trim_end_matches('/')),
        Some((scheme, _)) => return Err(format!("etcd is reached over http:// or https://, not {scheme}://")),
        None => return Err(format!("`{text}` is not a URL: write http://{text} or https://{text}")),
    };
    if rest.contains('@') {
        return Err("name and password do not belong in the URL: write `username` and `password_file`".to_string());
    }
    if rest.contains(['/', '?', '#']) {
        return Err(format!("`{text}`: an etcd endpoint has no path: write {scheme}://HOST:2379"));
    }
    let at = HostPort::parse(rest, Some(2379)).filter(|at| at.port != 0 && is_host(&at.host));
    let at = at.ok_or_else(|| format!("`{text}` is not a URL such as {scheme}://10.0.0.1:2379"))?;
    Ok(format!("{scheme}://{}", HostPort::new(at.host.to_ascii_lowercase(), at.port)))
}

fn check_scheme(written: &schema::Etcd, endpoints: &[Written<String>], sink: &Sink) {
    for endpoint in endpoints {
        let secure = endpoint.value.starts_with("https://");
        if secure && written.tls.is_none() {
            let sentence = "an https:// endpoint needs `tls: { ca: FILE }` with the certificate of who signed etcd's \
                            (`tls: {}` trusts whom this system trusts)";
            sink.report(endpoint.at, sentence);
        }
        if let Some(tls) = written.tls.as_ref().filter(|_| !secure) {
            let sentence =
                format!("this endpoint is http://, so `tls` (line {}) would not be used: write https://", tls.at.line);
            sink.report(endpoint.at, sentence);
        }
    }
}

fn password_place(written: &schema::Etcd) -> At {
    let ways = [&written.password, &written.password_file, &written.password_env];
    ways.into_iter().flatten().map(|way| way.at).next().unwrap_or(written.at)
}

fn password(written: &schema::Etcd, around: &Around<'_>) -> Option<Secret> {
    let ways = [
        ("password", &written.password),
        ("password_file", &written.password_file),
        ("password_env", &written.password_env),
    ];
    let mut given = ways.into_iter().filter_map(|(key, way)| way.as_ref().map(|way| (key, way)));
    let (first, way) = given.next()?;
    for (key, other) in given {
        around.sink.report(other.at, format!("`{key}` beside `{first}`: the password has one source"));
    }
    let read = match first {
        "password" => Ok(way.value.clone()),
        "password_file" => password_from_file(&way.value, around),
        _ => password_from_env(&way.value, around),
    };
    match read {
        Ok(text) => Some(Secret::new(text)),
        Err(sentence) => {
            around.sink.report(way.at, sentence);
            None
        }
    }
}

fn password_from_file(path: &str, around: &Around<'_>) -> Result<String, String> {
    let full = around.path(path);
    let text = (around.outside.read_file)(&full)
        .map_err(|error| format!("cannot read {}: {}", full.display(), why(&error)))?;
    let password = text.strip_suffix('\n').unwrap_or(&text);
    let password = password.strip_suffix('\r').unwrap_or(password);
    if password.is_empty() {
        return Err(format!("{} is empty: it should hold the password", full.display()));
    }
    if password.contains('\n') {
        return Err(format!("{} holds several lines: it should hold the password and nothing else", full.display()));
    }
    Ok(password.to_string())
}

fn password_from_env(name: &str, around: &Around<'_>) -> Result<String, String> {
    match (around.outside.env)(name) {
        Some(value) if !value.is_empty() => Ok(value),
        Some(_) => Err(format!("the environment variable `{name}` is empty")),
        None => Err(format!("the environment variable `{name}` is not set (`password_env` is the variable's name)")),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Pem {
    Certificate,
    PrivateKey,
}

fn look_into(path: &Written<String>, wanted: Pem, around: &Around<'_>) {
    let full = around.path(&path.value);
    let problem = match (around.outside.read_file)(&full) {
        Ok(text) => pem_problem(&text, wanted),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Some("is not PEM, which is text; convert it with openssl")
        }
        Err(error) => {
            return around.sink.report(path.at, format!("cannot read {}: {}", full.display(), why(&error)));
        }
    };
    if let Some(problem) = problem {
        around.sink.report(path.at, format!("{} {problem}", full.display()));
    }
}

fn pem_problem(text: &str, wanted: Pem) -> Option<&'static str> {
    let certificate = text.contains("-----BEGIN CERTIFICATE-----");
    let key = text.lines().any(|line| line.starts_with("-----BEGIN ") && line.contains("PRIVATE KEY-----"));
    let encrypted = text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") || text.contains("Proc-Type: 4,ENCRYPTED");
    match wanted {
        Pem::Certificate if certificate => None,
        Pem::Certificate if key => Some("holds a private key where a certificate belongs; were the two swapped?"),
        Pem::Certificate => Some("holds no certificate (a block that begins with -----BEGIN CERTIFICATE-----)"),
        Pem::PrivateKey if encrypted => Some("is encrypted, and nobody is there to type its passphrase; decrypt it"),
        Pem::PrivateKey if key => None,
        Pem::PrivateKey if certificate => {
            Some("holds a certificate where a private key belongs; were the two swapped?")
        }
        Pem::PrivateKey => Some("holds no private key (a block such as -----BEGIN PRIVATE KEY-----)"),
    }
}

/// An input error in plain words, without its number.
pub(super) fn why(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_string(),
        io::ErrorKind::PermissionDenied => "permission denied".to_string(),
        io::ErrorKind::IsADirectory => "it is a directory".to_string(),
        io::ErrorKind::InvalidData => "it is not UTF-8 text".to_string(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_urls_with_a_port() {
        assert_eq!(endpoint_url("http://ETCD-1/"), Ok("http://etcd-1:2379".to_string()));
        assert_eq!(endpoint_url("https://[::1]:4001"), Ok("https://[::1]:4001".to_string()));
        for text in
            ["10.0.0.1:2379", "ftp://x:1", "http://", "http://u:p@h:1", "http://h:0", "http://h/v3", "http://a b"]
        {
            assert!(endpoint_url(text).is_err(), "{text}");
        }
        assert!(endpoint_url("10.0.0.1:2379").unwrap_err().contains("http://10.0.0.1:2379"));
    }

    #[test]
    fn pem_files_are_what_they_should_be() {
        let (cert, key) = ("-----BEGIN CERTIFICATE-----\n", "-----BEGIN EC PRIVATE KEY-----\n");
        assert_eq!(pem_problem(cert, Pem::Certificate), None);
        assert_eq!(pem_problem(key, Pem::PrivateKey), None);
        assert!(pem_problem(key, Pem::Certificate).unwrap().contains("swapped"));
        assert!(pem_problem(cert, Pem::PrivateKey).unwrap().contains("swapped"));
        assert!(pem_problem("-----BEGIN ENCRYPTED PRIVATE KEY-----", Pem::PrivateKey).unwrap().contains("encrypted"));
        assert!(pem_problem("", Pem::Certificate).is_some());
    }
}

//! Connections on an address: renewals leave them alone, and before it goes they can be reset.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::time::Duration;

use pgvane::vip::sockets;

use super::bed::{BOTH, Bed, LIMIT, VIP};

/// Answers every line with itself, on all addresses of both families.
const ECHO: &str = "
import socket, sys, threading
def serve(peer):
    try:
        while data := peer.recv(99):
            peer.sendall(data)
    except ConnectionError:
        peer.close()
listener = socket.create_server(('::', 5432), family=socket.AF_INET6, dualstack_ipv6=True)
print('listening', flush=True)
while True:
    threading.Thread(target=serve, args=[listener.accept()[0]], daemon=True).start()
";

struct Echo(Child);

impl Echo {
    fn start(bed: &Bed, host: &str) -> Echo {
        let mut python = bed.command(host, "python3");
        let mut child = python.args(["-c", ECHO]).stdout(Stdio::piped()).spawn().expect("python3");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "listening\n");
        Echo(child)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = (self.0.kill(), self.0.wait());
    }
}

fn connect(bed: &Bed, ip: IpAddr) -> TcpStream {
    let address = (ip, 5432).into();
    let stream = bed.at("client", || TcpStream::connect_timeout(&address, LIMIT).expect("a connection"));
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

fn echo(mut stream: &TcpStream) -> std::io::Result<()> {
    stream.write_all(b"hello")?;
    stream.read_exact(&mut [0; 5])
}

#[tokio::test]
async fn a_renewal_deletes_nothing_and_a_connection_across_it_goes_on() {
    let bed = Bed::new(&["a", "client"]);
    let node = bed.node("a").await;
    let _echo = Echo::start(&bed, "a");
    for ip in BOTH {
        node.put(ip, Some(2)).await;
        let mut monitor = bed.command("a", "ip");
        let mut monitor = monitor.args(["-o", "monitor", "address", "route"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut told = BufReader::new(monitor.stdout.take().unwrap()).lines();
        let stream = connect(&bed, ip);
        // Longer than the first lifetime and its second of lateness.
        for _ in 0..45 {
            node.put(ip, Some(2)).await;
            echo(&stream).expect("it answers");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        node.remove(ip).await;
        let mut renewals = 0;
        loop {
            let line = told.next().expect("the deletion is told").unwrap();
            if !line.contains(&ip.to_string()) {
                continue;
            }
            if line.starts_with("Deleted") {
                break;
            }
            renewals += 1;
        }
        // The monitor may have been late for the first ones; whatever it saw before the end was no deletion.
        assert!(renewals >= 20, "{renewals}");
        let _ = (monitor.kill(), monitor.wait());
    }
}

#[tokio::test]
async fn an_idle_connection_of_another_program_is_reset_and_others_are_not() {
    let bed = Bed::new(&["a", "client"]);
    let node = bed.node("a").await;
    let _echo = Echo::start(&bed, "a");
    for (ip, own) in BOTH.into_iter().zip(["192.0.2.11", "2001:db8::11"]) {
        node.put(ip, Some(60)).await;
        let (mut idle, other) = (connect(&bed, ip), connect(&bed, own.parse().unwrap()));
        echo(&idle).unwrap();
        echo(&other).unwrap();
        assert_eq!(bed.at("a", || sockets::destroy(ip)).unwrap(), 1);
        let ended = idle.read(&mut [0; 1]).unwrap_err();
        assert_eq!(ended.kind(), std::io::ErrorKind::ConnectionReset);
        echo(&other).expect("a connection on another address goes on");
        // The listening socket is still there for the next claim.
        echo(&connect(&bed, ip)).expect("a new connection");
        node.remove(ip).await;
    }
}

/// PostgreSQL that listens on the address itself, and a crowd: more than one piece of the kernel's list holds.
#[tokio::test]
async fn a_crowd_is_reset_and_a_listener_on_the_address_stays() {
    const CROWD: usize = 600;
    let bed = Bed::new(&["a", "client"]);
    let node = bed.node("a").await;
    node.put(VIP, Some(60)).await;
    let listener = bed.at("a", || TcpListener::bind((VIP, 5432)).unwrap());
    let crowd: Vec<_> = (0..CROWD).map(|_| (connect(&bed, VIP), listener.accept().unwrap().0)).collect();
    assert_eq!(bed.at("a", || sockets::destroy(VIP)).unwrap(), CROWD);
    for (client, server) in &crowd {
        for mut end in [client, server] {
            let ended = end.read(&mut [0; 1]).map_err(|error| error.kind());
            assert!(matches!(ended, Err(std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::ConnectionAborted)));
        }
    }
    assert_eq!(bed.at("a", || sockets::destroy(VIP)).unwrap(), 0);
    let _again = connect(&bed, VIP);
    listener.accept().unwrap();
}

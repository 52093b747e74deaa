//! A client in Python with strict verification, against a client leg.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, Stdio};
use std::time::Duration;

use weir_tls::{LegKey, ModernStack, Verdict};

const CLIENT: &str = "
import socket, ssl, sys
port, name, authorities = int(sys.argv[1]), sys.argv[2], sys.argv[3]
context = ssl.create_default_context(cafile=authorities)
context.verify_flags |= ssl.VERIFY_X509_STRICT
try:
    with socket.create_connection(('127.0.0.1', port)) as plain:
        with context.wrap_socket(plain, server_hostname=name) as tls:
            tls.sendall(b'x')
            print('accepted', tls.version())
except ssl.SSLError as error:
    print('refused', error)
";

/// What the client says.
pub fn visit(authorities: &[u8], name: &str, key: &LegKey) -> String {
    let directory = tempfile::tempdir().unwrap();
    let file = super::common::write(directory.path(), "authorities.pem", authorities);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let child = Command::new("python3")
        .args(["-c", CLIENT, &port, name])
        .arg(file)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("python3 runs");
    let (mut socket, _) = listener.accept().unwrap();
    // Against a client that hangs; nothing is measured by it.
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut leg = ModernStack::new().unwrap().client_leg(key, Verdict::default(), None).unwrap();
    let mut buffer = [0; 4096];
    loop {
        let length = socket.read(&mut buffer).unwrap_or(0);
        if length == 0 || leg.read_wire(&buffer[..length]).is_err() {
            break;
        }
        let mut wire = Vec::new();
        leg.write_wire(&mut wire);
        if socket.write_all(&wire).is_err() {
            break;
        }
        let mut plain = Vec::new();
        leg.read_plain(&mut plain);
        if plain == b"x" {
            break;
        }
    }
    drop(socket);
    let output = child.wait_with_output().unwrap();
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

//! The two ways in which a leg's records leave it: appended to a buffer, or given to a writer that
//! takes what it can.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use common::{authority, leaf, plain, pump};
use rcgen::PKCS_ECDSA_P256_SHA256;
use weir_tls::{LegKey, ModernStack, Verdict};

/// Takes so many bytes, and no more for now.
struct Takes {
    room: usize,
    taken: Vec<u8>,
}

impl Write for Takes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let now = bytes.len().min(self.room);
        if now == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.taken.extend_from_slice(&bytes[..now]);
        self.room -= now;
        Ok(now)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn records_that_a_writer_takes_in_part_go_on_either_way() {
    let stack = ModernStack::new().unwrap();
    let authority = authority("Test CA", &PKCS_ECDSA_P256_SHA256);
    let key = LegKey::new(&leaf(&authority, &["www.example.org"])).unwrap();
    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 443);
    let mut from = stack.server_leg(Some("www.example.org"), address, Vec::new()).unwrap();
    let mut to = stack.client_leg(&key, Verdict::default(), None).unwrap();
    pump(from.as_mut(), to.as_mut(), 1400).unwrap();

    let data: Vec<u8> = (0..40_000_u32).map(|number| number as u8).collect();
    for room in [0, 1, 5, 1000, 16_384, 16_500, 39_000, 1 << 20] {
        assert_eq!(from.write_plain(&data), data.len());
        let mut writer = Takes { room, taken: Vec::new() };
        let sent = from.send_wire(&mut writer);
        match sent {
            Ok(()) => assert!(!from.wants_write()),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
        assert_eq!(from.wants_write(), writer.room == 0, "{room}");
        // The rest by the other way.
        from.write_wire(&mut writer.taken);
        assert!(!from.wants_write());
        to.read_wire(&writer.taken).unwrap();
        assert_eq!(plain(to.as_mut()), data, "{room}");
    }
}

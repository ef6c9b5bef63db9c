use std::net::Ipv6Addr;

use proptest::{collection::vec, prelude::*};

use super::*;

const V4: &[u8] = &[198, 51, 100, 7, 10, 0, 0, 1, 0x12, 0x67, 0x01, 0xbb];

/// A header of version 2, as the specification draws it.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n".as_slice(), &[0x20 | command, family], &length, rest].concat()
}

/// What a header comes to, and what is left in the stream behind it.
async fn taken(header: &[u8]) -> (Result<Option<String>, &'static str>, Vec<u8>) {
    let mut stream = header;
    let read = read(&mut stream).await;
    (
        read.map(|named| named.map(|named| named.to_string())).map_err(|refused| refused.result()),
        stream.to_vec(),
    )
}

async fn named(header: &[u8]) -> Option<String> {
    let (read, left) = taken(&[header, b"\x16 what follows"].concat()).await;
    assert_eq!(left, b"\x16 what follows", "not a byte of what follows was taken");
    read.unwrap()
}

async fn is_refused(header: &[u8]) -> bool {
    taken(header).await.0 == Err("invalid")
}

#[tokio::test]
async fn version_1_names_who_comes_by_either_family() {
    let v4 = b"PROXY TCP4 198.51.100.7 10.0.0.1 4711 443\r\n";
    assert_eq!(named(v4).await.unwrap(), "198.51.100.7:4711");
    let v6 = b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n";
    assert_eq!(named(v6).await.unwrap(), "[2001:db8::7]:4711");
}

#[tokio::test]
async fn version_2_names_who_comes_by_either_family_and_fields_behind_are_skipped() {
    assert_eq!(named(&v2(1, 0x11, V4)).await.unwrap(), "198.51.100.7:4711");
    let source: Ipv6Addr = "2001:db8::7".parse().unwrap();
    let v6 = [&source.octets()[..], &[0; 16], &[0x12, 0x67, 0x01, 0xbb]].concat();
    assert_eq!(named(&v2(1, 0x21, &v6)).await.unwrap(), "[2001:db8::7]:4711");
    let with_a_name = [V4, &[0x02, 0x00, 0x04], b"node"].concat();
    assert_eq!(named(&v2(1, 0x11, &with_a_name)).await.unwrap(), "198.51.100.7:4711");
}

#[tokio::test]
async fn a_header_may_name_nobody() {
    assert_eq!(named(b"PROXY UNKNOWN\r\n").await, None);
    assert_eq!(named(b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n").await, None);
    assert_eq!(named(b"PROXY UNKNOWN and more words than there are fields\r\n").await, None);
    assert_eq!(named(&v2(0, 0x00, &[])).await, None);
    assert_eq!(named(&v2(1, 0x00, &[])).await, None);
    assert_eq!(named(&v2(1, 0x31, &[0; 216])).await, None);
    // The proxy's own probes may carry addresses, which are of no account.
    assert_eq!(named(&v2(0, 0x11, V4)).await, None);
}

#[tokio::test]
async fn what_is_no_header_is_refused() {
    for wrong in [
        "GET /health HTTP/1.1\r\n\r\n",
        "PROXYTCP4 198.51.100.7 10.0.0.1 4711 443\r\n",
        "PROXY TCP4 198.51.100.7 10.0.0.1 4711\r\n",
        "PROXY TCP4 198.51.100.7 10.0.0.1 4711 99999\r\n",
        "PROXY TCP4 2001:db8::7 2001:db8::1 4711 443\r\n",
        "PROXY TCP4 198.51.100.7 10.0.0.1 4711 443\n",
        "PROXY UDP4 198.51.100.7 10.0.0.1 4711 443\r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY UNKNOWN\n",
        "proxy TCP4 198.51.100.7 10.0.0.1 4711 443\r\n",
        "PROXY TCP4 198.51.100.7 10.0.",
        "",
    ] {
        assert!(is_refused(wrong.as_bytes()).await, "{wrong}");
    }
    let (datagram, short) = (v2(1, 0x12, V4), v2(1, 0x11, &V4[..11]));
    let mut third = v2(1, 0x11, V4);
    third[12] = 0x31;
    let cut = &v2(1, 0x11, V4)[..20];
    for wrong in [&datagram[..], &short, &third, cut, &v2(2, 0x11, V4), &v2(1, 0x41, V4)] {
        assert!(is_refused(wrong).await, "{wrong:?}");
    }
}

#[tokio::test]
async fn a_header_has_a_greatest_length_and_what_is_longer_is_not_read() {
    let line = |length: usize| format!("PROXY UNKNOWN{}\r\n", " ".repeat(length - 15));
    assert!(taken(line(MOST_V1).as_bytes()).await.0.is_ok());
    let (read, left) = taken(&[line(5000).as_bytes()].concat()).await;
    assert_eq!((read, left.len()), (Err("invalid"), 5000 - MOST_V1));
    assert!(taken(&v2(0, 0, &vec![0; MOST_AFTER_START_V2])).await.0.is_ok());
    let (read, left) = taken(&v2(0, 0, &vec![0; MOST_AFTER_START_V2 + 1])).await;
    assert_eq!((read, left.len()), (Err("invalid"), MOST_AFTER_START_V2 + 1));
}

#[test]
fn who_is_local_to_another_machine_is_not_local_here() {
    let (there, here): (SocketAddr, SocketAddr) =
        ("192.0.2.1:5".parse().unwrap(), "127.0.0.1:5".parse().unwrap());
    for named in ["127.0.0.1:9", "[::1]:9", "[::ffff:127.0.0.1]:9"] {
        let named = named.parse().unwrap();
        assert_eq!(caller(Some(named), there), Caller { address: there, may_forward: false });
        assert_eq!(caller(Some(named), here), named.into());
    }
    let client = "198.51.100.7:9".parse().unwrap();
    assert_eq!(caller(Some(client), there), client.into());
    assert_eq!(caller(None, here), Caller { address: here, may_forward: false });
}

#[tokio::test(start_paused = true)]
async fn a_header_that_does_not_come_is_not_waited_for() {
    let peer = "192.0.2.1:5".parse().unwrap();
    for begun in ["", "P", "PROXY TCP4 198.51.100.7 "] {
        let (mut near, mut far) = tokio::io::duplex(256);
        tokio::io::AsyncWriteExt::write_all(&mut far, begun.as_bytes()).await.unwrap();
        let waiting = ProxyProtocol::Require.begin(&mut near, peer, Duration::from_secs(10));
        assert_eq!(timeout(Duration::from_secs(11), waiting).await.unwrap(), None, "{begun}");
    }
}

/// Bytes that are a header as far as the first ones go.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let starts = prop_oneof![
        Just(b"".to_vec()),
        Just(b"PROXY ".to_vec()),
        Just(b"PROXY TCP4 ".to_vec()),
        Just(b"PROXY TCP6 ".to_vec()),
        Just(b"PROXY UNKNOWN".to_vec()),
        (any::<u8>(), any::<u8>(), 0..600_u16).prop_map(|(command, family, length)| {
            [&v2(0, 0, &[])[..12], &[command, family], &length.to_be_bytes()].concat()
        }),
    ];
    (starts, vec(any::<u8>(), 0..700), any::<bool>())
        .prop_map(|(start, rest, line)| [&start[..], &rest, if line { b"\r\n" } else { b"" }].concat())
}

proptest! {
    #[test]
    fn whatever_comes_is_a_header_or_refused_and_never_more_is_read_than_one_may_take(bytes in nearly()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (read, left) = runtime.block_on(taken(&bytes));
        prop_assert!(bytes.len() - left.len() <= START_V2 + MOST_AFTER_START_V2);
        prop_assert!(read.is_ok() || read == Err("invalid"));
    }
}

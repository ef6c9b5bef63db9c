//! Who is at the other end: the socket's own address, or what a proxy says that is trusted to say it.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use axum::http::{HeaderMap, HeaderName, header};
use clap::ValueEnum;
use ipnet::IpNet;

/// Where a request came from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Peer(pub IpAddr);

/// The header by which the operator's proxy names the client. One, and not whichever is there: what the proxy does not
/// write itself it passes on as the client sent it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum ProxyHeader {
    /// What most proxies write.
    #[default]
    XForwardedFor,
    /// RFC 7239.
    Forwarded,
}

impl ProxyHeader {
    fn name(self) -> HeaderName {
        match self {
            Self::XForwardedFor => HeaderName::from_static("x-forwarded-for"),
            Self::Forwarded => header::FORWARDED,
        }
    }

    /// The hops that the header names, the nearest first; `None` stands for one that names no address.
    fn hops(self, headers: &HeaderMap) -> Vec<Option<IpAddr>> {
        let lines = headers.get_all(self.name());
        let text = lines.iter().map(|line| line.to_str().unwrap_or("?"));
        let mut hops: Vec<_> = text.flat_map(elements).map(|element| self.hop(element)).collect();
        hops.reverse();
        hops
    }

    fn hop(self, element: &str) -> Option<IpAddr> {
        match self {
            Self::XForwardedFor => address(element.trim()),
            Self::Forwarded => {
                let mut pairs = element.split(';').filter_map(|pair| pair.trim().split_once('='));
                let (_, named) = pairs.find(|(name, _)| name.eq_ignore_ascii_case("for"))?;
                let unquoted = named.strip_prefix('"').and_then(|named| named.strip_suffix('"'));
                address(unquoted.unwrap_or(named))
            }
        }
    }
}

/// The elements of a list. A comma inside quotes, which no address needs, breaks the element, and it names nobody.
fn elements(line: &str) -> impl Iterator<Item = &str> {
    line.split(',')
}

/// An address as proxies write it: with or without brackets and a port.
fn address(text: &str) -> Option<IpAddr> {
    let bare = || text.parse::<IpAddr>().ok();
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<IpAddr>().ok();
    let with_port = || text.parse::<SocketAddr>().ok().map(|socket| socket.ip());
    Some(bare().or_else(bracketed).or_else(with_port)?.to_canonical())
}

/// The proxies that are trusted to say who is behind them.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies {
    networks: Vec<IpNet>,
    header: ProxyHeader,
}

impl TrustedProxies {
    /// These, who write that header.
    pub fn new(networks: Vec<IpNet>, header: ProxyHeader) -> Self {
        Self { networks, header }
    }

    /// Whether the socket's peer may speak for others.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.networks.iter().any(|network| network.contains(&peer))
    }

    /// Who sent a request with `headers` that came from `socket`: the nearest hop that is no trusted proxy. Where the
    /// headers name nobody, the proxy itself; from anybody else they mean nothing.
    pub fn sender(&self, socket: IpAddr, headers: &HeaderMap) -> IpAddr {
        if !self.trusts(socket) {
            return socket;
        }
        let mut sender = socket;
        for hop in self.header.hops(headers) {
            let Some(address) = hop else { return socket };
            sender = address;
            if !self.trusts(address) {
                break;
            }
        }
        sender
    }

    /// Whether a request says that it was forwarded, and nobody listens.
    pub fn ignores(&self, socket: IpAddr, headers: &HeaderMap) -> bool {
        let named = [ProxyHeader::XForwardedFor, ProxyHeader::Forwarded];
        !self.trusts(socket) && named.into_iter().any(|header| headers.contains_key(header.name()))
    }
}

/// A text that is neither an address nor a network.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is not an IP address or a network like 10.0.0.0/8")]
pub struct InvalidNetwork(pub String);

/// Reads an address, or a network.
///
/// # Errors
/// [`InvalidNetwork`].
pub fn network(text: &str) -> Result<IpNet, InvalidNetwork> {
    let text = text.trim();
    let one = || IpAddr::from_str(text).map(|address| IpNet::from(address.to_canonical()));
    IpNet::from_str(text).or_else(|_| one()).map_err(|_| InvalidNetwork(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trusting(header: ProxyHeader) -> TrustedProxies {
        let networks = ["192.0.2.1", "10.0.0.0/8", "2001:db8::/64"];
        TrustedProxies::new(networks.iter().map(|text| network(text).unwrap()).collect(), header)
    }

    fn sender(header: ProxyHeader, socket: &str, lines: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header.name(), line.parse().unwrap());
        }
        trusting(header).sender(socket.parse().unwrap(), &headers).to_string()
    }

    fn x_forwarded_for(socket: &str, lines: &[&str]) -> String {
        sender(ProxyHeader::XForwardedFor, socket, lines)
    }

    #[test]
    fn nobody_else_says_who_they_are() {
        assert_eq!(x_forwarded_for("192.0.2.2", &["198.51.100.1"]), "192.0.2.2");
        assert_eq!(x_forwarded_for("2001:db8:0:1::1", &["198.51.100.1"]), "2001:db8:0:1::1");
    }

    #[test]
    fn the_nearest_hop_that_is_no_proxy_of_ours_is_the_sender() {
        for (lines, expected) in [
            (&["198.51.100.1"][..], "198.51.100.1"),
            (&["203.0.113.9, 198.51.100.1"], "198.51.100.1"),
            (&["198.51.100.1, 10.1.2.3"], "198.51.100.1"),
            (&["203.0.113.9", "198.51.100.1,10.1.2.3", "10.9.9.9"], "198.51.100.1"),
            (&["198.51.100.1:4711"], "198.51.100.1"),
            (&["[2001:db8:1::7]:4711"], "2001:db8:1::7"),
            (&["2001:db8:1::7"], "2001:db8:1::7"),
            (&["::ffff:198.51.100.1"], "198.51.100.1"),
            // All of them ours: the farthest is who asks.
            (&["10.1.2.3, 10.9.9.9"], "10.1.2.3"),
            // What stands farther away than the sender is the sender's own word.
            (&["garbage, 198.51.100.1"], "198.51.100.1"),
            (&[], "192.0.2.1"),
        ] {
            assert_eq!(x_forwarded_for("192.0.2.1", lines), expected, "{lines:?}");
        }
        assert_eq!(x_forwarded_for("::ffff:192.0.2.1", &["198.51.100.1"]), "198.51.100.1");
    }

    #[test]
    fn where_the_header_names_nobody_the_proxy_counts() {
        for line in ["", "unknown", "198.51.100.1 10.1.1.1", "198.51.100.999", "198.51.100.1, ", "\u{ff}"] {
            assert_eq!(x_forwarded_for("192.0.2.1", &[line]), "192.0.2.1", "{line}");
        }
        for line in
            ["for=_hidden", "for=unknown", "proto=https", "for=\"198.51.100.1", "\"for=198.51.100.1,\""]
        {
            assert_eq!(sender(ProxyHeader::Forwarded, "192.0.2.1", &[line]), "192.0.2.1", "{line}");
        }
    }

    #[test]
    fn rfc_7239_names_the_sender_too() {
        for (line, expected) in [
            ("for=198.51.100.1", "198.51.100.1"),
            ("For=\"[2001:db8:1::7]:4711\";proto=https;by=10.0.0.1", "2001:db8:1::7"),
            ("for=203.0.113.9, proto=http;for=198.51.100.1:80", "198.51.100.1"),
            ("for=198.51.100.1, for=10.1.2.3", "198.51.100.1"),
        ] {
            assert_eq!(sender(ProxyHeader::Forwarded, "10.0.0.1", &[line]), expected, "{line}");
        }
    }

    #[test]
    fn a_header_that_the_proxy_does_not_write_is_the_clients_and_is_not_read() {
        let mut headers = HeaderMap::new();
        headers.insert(header::FORWARDED, "for=203.0.113.9".parse().unwrap());
        headers.insert("x-forwarded-for", "198.51.100.1".parse().unwrap());
        let proxy = "10.0.0.1".parse().unwrap();
        let of = |header| trusting(header).sender(proxy, &headers).to_string();
        assert_eq!(of(ProxyHeader::XForwardedFor), "198.51.100.1");
        assert_eq!(of(ProxyHeader::Forwarded), "203.0.113.9");
    }

    #[test]
    fn what_is_no_network_is_said_to_be_none() {
        for text in ["", "10.0.0.0/33", "proxy.example", "10.0.0.1-10.0.0.9"] {
            assert!(network(text).is_err(), "{text}");
        }
        assert!(
            network("10.0.0.1/8")
                .is_ok_and(|network| network.contains(&"10.9.9.9".parse::<IpAddr>().unwrap()))
        );
    }
}

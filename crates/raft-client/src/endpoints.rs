//! Where nodes are looked for: hosts and ports as a person writes them, and their addresses.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::error::ClientError;

/// The port of `raft` when an endpoint names none.
pub const RAFT_PORT: u16 = 6004;

/// At most so many endpoints are accepted.
const ENDPOINTS_MAX: usize = 256;

/// At most so many addresses of all endpoints together are tried.
const ADDRESSES_MAX: usize = 1024;

/// How long one name may take to resolve. A resolver that hangs must not eat the whole timeout.
const RESOLVE_DEADLINE: Duration = Duration::from_millis(1500);

/// A host, by name or by address, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    host: String,
    port: u16,
}

/// What endpoints resolve to at one moment.
#[derive(Debug, Default)]
pub struct Resolved {
    /// Every address once, in the order of the endpoints.
    pub addresses: Vec<SocketAddr>,
    /// The endpoints that have no address, each with the reason.
    pub unresolved: Vec<String>,
}

impl FromStr for Endpoint {
    type Err = ClientError;

    fn from_str(text: &str) -> Result<Self, ClientError> {
        let refuse = || {
            ClientError::Usage(format!(
                "{:?} is no endpoint: write host, host:port, or [IPv6]:port",
                text.trim()
            ))
        };
        let plain = text.trim();
        let plain = plain
            .strip_prefix("http://")
            .unwrap_or(plain)
            .trim_end_matches('/');
        if let Ok(ip) = plain.parse::<IpAddr>() {
            return Ok(Self {
                host: ip.to_string(),
                port: RAFT_PORT,
            });
        }
        let (host, port) = match plain.rsplit_once(':') {
            Some((host, port)) if !plain.ends_with(']') => {
                let port = port
                    .parse()
                    .ok()
                    .filter(|port| *port > 0)
                    .ok_or_else(refuse)?;
                (host, port)
            }
            _ => (plain, RAFT_PORT),
        };
        if let Some(inner) = host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            let ip: IpAddr = inner.parse().map_err(|_| refuse())?;
            return Ok(Self {
                host: ip.to_string(),
                port,
            });
        }
        let letter = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
        if host.is_empty() || !host.chars().all(letter) {
            return Err(refuse());
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            return write!(f, "[{}]:{}", self.host, self.port);
        }
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Reads endpoints separated by commas.
///
/// # Errors
/// [`ClientError::Usage`] when one is malformed, there is none, or there are too many.
pub fn parse_endpoints(text: &str) -> Result<Vec<Endpoint>, ClientError> {
    let parts = text.split(',').filter(|part| !part.trim().is_empty());
    let endpoints: Vec<Endpoint> = parts.map(str::parse).collect::<Result<_, _>>()?;
    if endpoints.is_empty() || endpoints.len() > ENDPOINTS_MAX {
        let sentence = format!("between 1 and {ENDPOINTS_MAX} endpoints are needed: {text:?}");
        return Err(ClientError::Usage(sentence));
    }
    Ok(endpoints)
}

/// All addresses of all endpoints; names are looked up at the same time, `deadline` at most.
pub async fn resolve(endpoints: &[Endpoint], deadline: Duration) -> Resolved {
    let deadline = deadline.min(RESOLVE_DEADLINE);
    let mut lookups = JoinSet::new();
    for (place, endpoint) in endpoints.iter().cloned().enumerate() {
        lookups.spawn(async move { (place, addresses_of(&endpoint, deadline).await) });
    }
    let mut answers = lookups.join_all().await;
    answers.sort_by_key(|(place, _)| *place);

    let mut resolved = Resolved::default();
    let mut seen = BTreeSet::new();
    for (_, answer) in answers {
        match answer {
            Ok(addresses) => {
                let new = addresses
                    .into_iter()
                    .filter(|address| seen.insert(*address));
                resolved.addresses.extend(new);
            }
            Err(reason) => resolved.unresolved.push(reason),
        }
    }
    resolved.addresses.truncate(ADDRESSES_MAX);
    resolved
}

async fn addresses_of(endpoint: &Endpoint, deadline: Duration) -> Result<Vec<SocketAddr>, String> {
    if let Ok(ip) = endpoint.host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, endpoint.port)]);
    }
    let lookup = tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port));
    match timeout(deadline, lookup).await {
        Ok(Ok(addresses)) => {
            let addresses: Vec<SocketAddr> = addresses.collect();
            if addresses.is_empty() {
                return Err(format!("{endpoint} (the name has no address)"));
            }
            Ok(addresses)
        }
        Ok(Err(_)) => Err(format!("{endpoint} (the name does not resolve)")),
        Err(_) => Err(format!("{endpoint} (the name service does not answer)")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn endpoints_as_people_write_them() {
        let shown = |text: &str| {
            let endpoints = parse_endpoints(text).unwrap();
            endpoints
                .iter()
                .map(Endpoint::to_string)
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(shown("127.0.0.1"), "127.0.0.1:6004");
        assert_eq!(
            shown("introducer, worker:7004,"),
            "introducer:6004 worker:7004"
        );
        assert_eq!(shown("::1,[::1]:7,[::2]"), "[::1]:6004 [::1]:7 [::2]:6004");
        assert_eq!(shown("http://a.b:1/"), "a.b:1");
        for wrong in [
            "",
            ",",
            "a:b",
            "a:0",
            "a:70000",
            "a b",
            "https://a:1",
            "[x]:1",
            ":6004",
        ] {
            assert!(parse_endpoints(wrong).is_err(), "{wrong:?}");
        }
    }

    #[tokio::test]
    async fn an_address_named_twice_is_tried_once_and_a_bad_name_hinders_nobody() {
        // A name of 64 letters is against the rules: no name service needs to be asked.
        let bad = "a".repeat(64);
        let endpoints = parse_endpoints(&format!("127.0.0.1,{bad},127.0.0.1:6004")).unwrap();
        let resolved = resolve(&endpoints, RESOLVE_DEADLINE).await;
        assert_eq!(resolved.addresses, vec!["127.0.0.1:6004".parse().unwrap()]);
        assert_eq!(resolved.unresolved.len(), 1);
        assert!(resolved.unresolved[0].ends_with(":6004 (the name does not resolve)"));
    }
}

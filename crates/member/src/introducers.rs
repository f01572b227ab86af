//! Where the introducers are. Their names may resolve to many addresses, to others than yesterday,
//! or not yet at all, so they are asked for again and again; and the own address, if nobody
//! configured it, follows from how the machine would reach them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use config::Config;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::driver::Published;

/// A name that takes longer to resolve counts as unknown for this round.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two rounds while nobody has answered yet, at first and later.
const SEEKING_PAUSE: Duration = Duration::from_secs(1);
const SEEKING_PAUSE_LATER: Duration = Duration::from_secs(5);
/// Rounds after which the pause is the longer one.
const EAGER_ROUNDS: u32 = 60;
/// Between two rounds while other members are there.
const SETTLED_PAUSE: Duration = Duration::from_secs(30);
/// Addresses of one name that are used.
const MAX_ADDRESSES: usize = 64;

/// What the names of the introducers resolve to, one list per name, in the configured order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Introducers {
    names: Vec<(String, u16)>,
    addresses: Vec<Vec<SocketAddr>>,
    /// This node listens on all its addresses, the loopback ones included.
    binds_all: bool,
}

impl Introducers {
    pub(crate) fn configured(config: &Config) -> Self {
        let names = config.introducer_addresses();
        let addresses = vec![Vec::new(); names.len()];
        Self {
            names,
            addresses,
            binds_all: config.bind_ip.is_unspecified(),
        }
    }

    /// Asks for all names at once. A name that does not resolve now keeps what it had.
    pub(crate) async fn resolve(&mut self) {
        let lookups = self.names.iter().cloned().map(|(host, port)| {
            tokio::spawn(async move {
                let found = timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((host, port))).await;
                let mut found: Vec<SocketAddr> = found.ok()?.ok()?.take(MAX_ADDRESSES).collect();
                found.sort();
                found.dedup();
                Some(found)
            })
        });
        let lookups: Vec<_> = lookups.collect();
        for (addresses, lookup) in self.addresses.iter_mut().zip(lookups) {
            if let Ok(Some(found)) = lookup.await {
                *addresses = found;
            }
        }
    }

    pub(crate) fn all(&self) -> Vec<SocketAddr> {
        self.addresses.iter().flatten().copied().collect()
    }

    /// The first of them is `own`: that node alone may found a cluster. A machine may know its own
    /// name by a loopback address, which is nobody else's unless nodes share the machine.
    pub(crate) fn first_is(&self, own: SocketAddr) -> bool {
        let is_own = |address: &SocketAddr| {
            let is_this_machine = self.binds_all && address.ip().is_loopback();
            *address == own || (is_this_machine && address.port() == own.port())
        };
        self.addresses
            .first()
            .is_some_and(|addresses| addresses.iter().any(is_own))
    }

    fn are_literal(&self) -> bool {
        self.names
            .iter()
            .all(|(host, _)| host.parse::<IpAddr>().is_ok())
    }
}

/// Resolves again and again, and tells the driver what changed.
pub(crate) async fn keep_resolving(
    mut introducers: Introducers,
    sender: watch::Sender<Introducers>,
    published: watch::Receiver<Published>,
    shutdown: CancellationToken,
) {
    if introducers.are_literal() {
        return shutdown.cancelled().await;
    }
    let mut rounds: u32 = 0;
    loop {
        let is_settled = published.borrow().has_others();
        let pause = match (is_settled, rounds < EAGER_ROUNDS) {
            (true, _) => SETTLED_PAUSE,
            (false, true) => SEEKING_PAUSE,
            (false, false) => SEEKING_PAUSE_LATER,
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        rounds = if is_settled {
            0
        } else {
            rounds.saturating_add(1)
        };
        introducers.resolve().await;
        sender.send_if_modified(|current| {
            let changed = *current != introducers;
            current.clone_from(&introducers);
            changed
        });
    }
}

/// The address at which others reach this node: configured, bound, or found.
///
/// Found means: the address that the machine would use towards an introducer, or that its host name
/// stands for, or that it would use towards the outside. Nothing is sent for that.
pub(crate) async fn advertised_ip(config: &Config, introducers: &Introducers) -> IpAddr {
    if let Some(ip) = config.advertise_ip {
        return ip;
    }
    if !config.bind_ip.is_unspecified() {
        return config.bind_ip;
    }
    let is_fit = |ip: &IpAddr| {
        !ip.is_loopback() && !ip.is_unspecified() && ip.is_ipv4() == config.bind_ip.is_ipv4()
    };
    let towards = introducers
        .all()
        .into_iter()
        .filter(|address| !address.ip().is_loopback());
    if let Some(ip) = towards.filter_map(local_ip_towards).find(is_fit) {
        return ip;
    }
    let own_name = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    let resolved = timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((own_name, 0))).await;
    if let Ok(Ok(mut addresses)) = resolved
        && let Some(ip) = addresses.find_map(|address| Some(address.ip()).filter(is_fit))
    {
        return ip;
    }
    // An address of the range for documentation: only the route matters.
    let outside = SocketAddr::from((Ipv4Addr::new(203, 0, 113, 1), 9));
    if let Some(ip) = local_ip_towards(outside).filter(is_fit) {
        return ip;
    }
    let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
    tracing::warn!(
        "[MEMBER] no address found that others could reach this node at; using {ip}. Set AdvertiseIp"
    );
    ip
}

/// Connecting a UDP socket sends nothing; it only asks the kernel for the route.
fn local_ip_towards(address: SocketAddr) -> Option<IpAddr> {
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(address).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn config(bind_ip: &str, introducers: &[&str]) -> Config {
        Config {
            bind_ip: bind_ip.parse().unwrap(),
            introducers: introducers.iter().map(|&name| name.to_owned()).collect(),
            ..Config::default()
        }
    }

    async fn resolved(config: &Config) -> Introducers {
        let mut introducers = Introducers::configured(config);
        introducers.resolve().await;
        introducers
    }

    #[tokio::test]
    async fn only_the_first_configured_introducer_is_the_first() {
        let own: SocketAddr = "127.61.20.2:6000".parse().unwrap();
        for (names, is_first) in [
            (vec!["127.61.20.2", "127.61.20.1"], true),
            (vec!["127.61.20.2:6000"], true),
            (vec!["127.61.20.2:7000"], false),
            (vec!["127.61.20.1", "127.61.20.2"], false),
            (vec!["no-such-name.invalid", "127.61.20.2"], false),
            (vec![], false),
        ] {
            let introducers = resolved(&config("127.61.20.2", &names)).await;
            assert_eq!(introducers.first_is(own), is_first, "{names:?}");
        }
    }

    #[tokio::test]
    async fn a_loopback_name_is_this_node_when_it_has_the_machine_for_itself() {
        let own: SocketAddr = "192.0.2.7:6000".parse().unwrap();
        assert!(
            resolved(&config("0.0.0.0", &["127.0.1.1"]))
                .await
                .first_is(own)
        );
        assert!(
            !resolved(&config("192.0.2.7", &["127.0.1.1"]))
                .await
                .first_is(own)
        );
        assert!(
            !resolved(&config("0.0.0.0", &["127.0.1.1:7000"]))
                .await
                .first_is(own)
        );
    }

    #[tokio::test]
    async fn the_configured_address_is_advertised_before_the_bound_one() {
        let mut config = config("127.61.20.2", &[]);
        let introducers = Introducers::configured(&config);
        let bound: IpAddr = "127.61.20.2".parse().unwrap();
        assert_eq!(advertised_ip(&config, &introducers).await, bound);
        let configured: IpAddr = "192.0.2.9".parse().unwrap();
        config.advertise_ip = Some(configured);
        assert_eq!(advertised_ip(&config, &introducers).await, configured);
        config.advertise_ip = None;
        config.bind_ip = "0.0.0.0".parse().unwrap();
        assert!(!advertised_ip(&config, &introducers).await.is_unspecified());
    }

    #[tokio::test]
    async fn a_name_that_stops_resolving_keeps_its_addresses() {
        let mut introducers = resolved(&config("127.0.0.1", &["127.0.0.5"])).await;
        introducers.names[0].0 = "no-such-name.invalid".to_owned();
        introducers.resolve().await;
        assert_eq!(introducers.all(), ["127.0.0.5:6000".parse().unwrap()]);
    }
}

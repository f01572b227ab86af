use std::net::IpAddr;

/// Whether a caller is a process of this machine: it calls from a loopback address, or from `own`, the address of
/// this node or the one that was called. What changes a node is for its own processes alone.
pub fn is_local(caller: IpAddr, own: IpAddr) -> bool {
    let (caller, own) = (caller.to_canonical(), own.to_canonical());
    caller.is_loopback() || caller == own
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn a_caller_is_local_by_loopback_or_by_the_address_it_called() {
        let own = IpAddr::from([192, 0, 2, 7]);
        let mapped = |ip: Ipv4Addr| IpAddr::from(ip.to_ipv6_mapped());
        assert!(is_local(own, own));
        assert!(is_local(Ipv4Addr::LOCALHOST.into(), own));
        assert!(is_local(mapped(Ipv4Addr::LOCALHOST), own));
        assert!(is_local(mapped([192, 0, 2, 7].into()), own));
        assert!(is_local(Ipv6Addr::LOCALHOST.into(), own));
        assert!(!is_local([192, 0, 2, 8].into(), own));
        assert!(!is_local(mapped([192, 0, 2, 8].into()), own));
    }
}

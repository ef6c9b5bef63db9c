//! Settings that cannot stand side by side.

use std::net::{IpAddr, SocketAddr};

use fabstir_protocol::{v1::InitMemoryLimits, v2::MAX_FRAME_LEN};

use super::{Args, ConfigError};

impl Args {
    /// Refuses what means nothing without a key, or beside another setting.
    pub(super) fn refuse_contradictions(&self, has_key: bool) -> Result<(), ConfigError> {
        let allow_list = !self.limits.allowed_clients.is_empty();
        let (allow_file, deny_file) =
            (self.limits.allowed_clients_file.is_some(), self.limits.denied_clients_file.is_some());
        let need_key = [
            ("REQUIRE_ENCRYPTION", self.require_encryption),
            ("ALLOWED_CLIENTS", allow_list),
            ("ALLOWED_CLIENTS_FILE", allow_file),
            ("DENIED_CLIENTS_FILE", deny_file),
            ("MIN_PROTOCOL", self.min_protocol > 1),
            ("REQUIRE_INIT_TIMESTAMP", self.require_init_timestamp),
        ];
        if let Some((setting, _)) = need_key.into_iter().find(|(_, set)| *set && !has_key) {
            return Err(ConfigError::NeedsKey { setting });
        }
        let pairs = [
            ("ALLOW_PLAINTEXT", self.allow_plaintext, "REQUIRE_ENCRYPTION", self.require_encryption),
            ("ALLOW_PLAINTEXT", self.allow_plaintext, "ALLOWED_CLIENTS", allow_list),
            ("ALLOW_PLAINTEXT", self.allow_plaintext, "ALLOWED_CLIENTS_FILE", allow_file),
            // Who asks in the clear has no address that could be denied.
            ("ALLOW_PLAINTEXT", self.allow_plaintext, "DENIED_CLIENTS_FILE", deny_file),
            ("ALLOW_PLAINTEXT", self.allow_plaintext, "MIN_PROTOCOL=2", self.min_protocol > 1),
        ];
        refuse_both(&pairs)?;
        let (listen, metrics) = (self.listen_addr, self.operation.metrics_listen);
        if metrics.is_some_and(|metrics| overlap(listen, metrics)) {
            return Err(ConfigError::SamePort { port: listen.port() });
        }
        if has_key && self.limits.max_frame_bytes.get() < MAX_FRAME_LEN {
            return Err(ConfigError::FrameBelowRecord { least: MAX_FRAME_LEN });
        }
        if self.operation.drain_seconds < self.operation.drain_at_least_seconds {
            return Err(ConfigError::DrainBelowLeast);
        }
        if self.session_max_seconds < self.session_key_ttl_seconds {
            return Err(ConfigError::MaxBelowTtl);
        }
        // An init is remembered for the TTL at least, and for ten minutes.
        let minutes = self.session_key_ttl_seconds.get().div_ceil(60).max(10);
        let remembered = u64::try_from(InitMemoryLimits::standard(0).per_network).unwrap_or(u64::MAX);
        let most = remembered.checked_div(minutes).unwrap_or(0).max(1);
        if u64::from(self.limits.inits_per_minute.get()) > most {
            return Err(ConfigError::InitsAboveMemory { most });
        }
        Ok(())
    }
}

/// Whether one port is asked for twice: at the same address, or at one and at every address of its kind. `::` is every address of
/// either kind.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let (first, second) = (one.ip().to_canonical(), other.ip().to_canonical());
    let covers = |all: IpAddr, one: IpAddr| all.is_unspecified() && (all.is_ipv6() || one.is_ipv4());
    let meet = first == second || covers(first, second) || covers(second, first);
    meet && one.port() == other.port() && one.port() != 0
}

/// Refuses two settings that contradict each other, each with whether it is set.
pub(super) fn refuse_both(pairs: &[(&'static str, bool, &'static str, bool)]) -> Result<(), ConfigError> {
    match pairs.iter().find(|(_, one, _, other)| *one && *other) {
        Some((one, _, other, _)) => Err(ConfigError::Contradiction { one, other }),
        None => Ok(()),
    }
}

//! What one value alone cannot show: hard limits, and values that must fit each
//! other. What depends on the host is checked when the plan is made.

use super::values::{Size, Span};
use super::{Config, ConfigError};
use crate::control::logging;

/// Room that `limits.request_bytes` leaves beside the largest value: the longest
/// key (64 KB) and as much again for framing and options.
const REQUEST_HEADROOM_BYTES: u64 = 128 << 10;

const CONNECTIONS_MAX: u64 = 1_000_000;
const KEY_BYTES_MAX: u64 = 65_535;
const VALUE_BYTES_MAX: u64 = 512 << 20;
const ARGS_MAX: u64 = 1_048_576;
const REQUEST_BYTES_MAX: u64 = 1 << 30;
const OUTPUT_BYTES_MAX: u64 = 4 << 30;
const SPIN_NS_MAX: u128 = 1_000_000_000;
const GATHER_NS_MAX: u128 = 1_000_000;
const ANNOUNCE_BYTES_MAX: usize = 255;
/// In parts of a million.
const JITTER_MAX: u32 = 500_000;
const PREFIXES_MAX: usize = 64;
const PREFIX_BYTES_MAX: usize = 255;

// Hard limits must leave room for each other, or some setting could take no value.
const _: () =
    assert!(VALUE_BYTES_MAX + REQUEST_HEADROOM_BYTES <= REQUEST_BYTES_MAX && VALUE_BYTES_MAX <= OUTPUT_BYTES_MAX);
const _: () = assert!(KEY_BYTES_MAX < REQUEST_HEADROOM_BYTES);

impl Config {
    /// Checks every value and every relation between values.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        self.check_limits()?;
        self.check_listen()?;
        self.check_expiry()?;
        if self.cores.spin.0.as_nanos() > SPIN_NS_MAX {
            return Err(self.refuse("cores.spin", format!("{} is more than 1s", self.cores.spin)));
        }
        if self.cores.gather.0.as_nanos() > GATHER_NS_MAX {
            return Err(self.refuse("cores.gather", format!("{} is more than 1ms", self.cores.gather)));
        }
        logging::check_filter(&self.log.level).map_err(|reason| self.refuse("log.level", reason))
    }

    fn check_limits(&self) -> Result<(), ConfigError> {
        let limits = &self.limits;
        let ranges = [
            ("limits.connections", u64::from(limits.connections), 1, CONNECTIONS_MAX),
            ("limits.key_bytes", limits.key_bytes.0, 1, KEY_BYTES_MAX),
            ("limits.value_bytes", limits.value_bytes.0, 1, VALUE_BYTES_MAX),
            ("limits.args", u64::from(limits.args), 1, ARGS_MAX),
            ("limits.request_bytes", limits.request_bytes.0, 1, REQUEST_BYTES_MAX),
            ("limits.output_soft_bytes", limits.output_soft_bytes.0, 1, OUTPUT_BYTES_MAX),
            ("limits.output_hard_bytes", limits.output_hard_bytes.0, 1, OUTPUT_BYTES_MAX),
        ];
        for (key, value, least, most) in ranges {
            let show = |n: u64| if key.ends_with("_bytes") { Size(n).to_string() } else { n.to_string() };
            if !(least..=most).contains(&value) {
                let reason = format!("{} is outside {} to {}", show(value), show(least), show(most));
                return Err(self.refuse(key, reason));
            }
        }
        let value = limits.value_bytes.0;
        self.at_least(
            "limits.request_bytes",
            limits.request_bytes,
            "limits.value_bytes",
            value + REQUEST_HEADROOM_BYTES,
        )?;
        self.at_least("limits.output_hard_bytes", limits.output_hard_bytes, "limits.value_bytes", value)?;
        let soft = limits.output_soft_bytes.0;
        self.at_least("limits.output_hard_bytes", limits.output_hard_bytes, "limits.output_soft_bytes", soft)
    }

    /// Refuses a size that is too small for another setting, and blames the one
    /// that somebody wrote.
    fn at_least(&self, key: &str, size: Size, other: &str, least: u64) -> Result<(), ConfigError> {
        if size.0 >= least {
            return Ok(());
        }
        let blamed = if self.sources.of(key).is_some() { key } else { other };
        let least = Size(least);
        let reason =
            format!("`{key}` is {size} but `{other}` needs at least {least}: raise the one or lower the other");
        Err(self.refuse(blamed, reason))
    }

    fn check_expiry(&self) -> Result<(), ConfigError> {
        let expiry = &self.expiry;
        if expiry.jitter.0 > JITTER_MAX {
            return Err(self.refuse("expiry.jitter", format!("{} is more than 50%", expiry.jitter)));
        }
        let fits = |default: Span, max: Span| max.0.is_zero() || default <= max;
        if !fits(expiry.default_ttl, expiry.max_ttl) {
            let reason = format!("{} is more than `expiry.max_ttl`, {}", expiry.default_ttl, expiry.max_ttl);
            return Err(self.refuse("expiry.default_ttl", reason));
        }
        if self.prefix.len() > PREFIXES_MAX {
            return Err(self.refuse("prefix", format!("there are {}, and 64 at most", self.prefix.len())));
        }
        for (i, rule) in self.prefix.iter().enumerate() {
            let refuse =
                |reason: String| Err(self.refuse("prefix", format!("\"{}\": {reason}", rule.name.escape_debug())));
            if rule.name.is_empty() || rule.name.len() > PREFIX_BYTES_MAX {
                return refuse(format!("a prefix has 1 to {PREFIX_BYTES_MAX} bytes; `[expiry]` is for all keys"));
            }
            if self.prefix[..i].iter().any(|other| other.name == rule.name) {
                return refuse("it is there twice".to_string());
            }
            let (default, max) =
                (rule.default_ttl.unwrap_or(expiry.default_ttl), rule.max_ttl.unwrap_or(expiry.max_ttl));
            if !fits(default, max) {
                return refuse(format!("default_ttl, {default}, is more than max_ttl, {max}"));
            }
        }
        Ok(())
    }

    fn check_listen(&self) -> Result<(), ConfigError> {
        let listen = &self.listen;
        if [listen.port, listen.core_port_base, listen.memcached_port, listen.http_port] == [0; 4] {
            let reason =
                "this and the ports of cores, memcached and HTTP are all 0, so no client could connect: set one"
                    .to_string();
            return Err(self.refuse("listen.port", reason));
        }
        if listen.backlog == 0 {
            return Err(self.refuse("listen.backlog", "0 is too small: write at least 1".to_string()));
        }
        let host = |b: u8| b.is_ascii_alphanumeric() || b"-._:".contains(&b);
        if listen.announce.len() > ANNOUNCE_BYTES_MAX || !listen.announce.bytes().all(host) {
            let reason = format!("`{}` is not a host name or an IP address", listen.announce.escape_debug());
            return Err(self.refuse("listen.announce", reason));
        }
        let word = |text: &str| !text.is_empty() && text.bytes().all(host);
        if !listen.hello.split_once(' ').is_some_and(|(name, version)| word(name) && word(version)) {
            let reason =
                format!("`{}` is not a name and a version: write \"redis 7.4.0\"", listen.hello.escape_debug());
            return Err(self.refuse("listen.hello", reason));
        }
        Ok(())
    }
}

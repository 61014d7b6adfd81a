//! What gives way when the budget is reached: the policies and their names.
//!
//! The policies share one [`hand`], which walks segments; a policy decides which
//! segment comes next and what happens to a live record in it ([`verdict`]).

mod ghost;
mod hand;
mod verdict;

use ghost::Ghost;
pub(super) use hand::{Grace, Hand, Step};

/// What happens when the budget is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Oldest first; a record that was read since the hand last came by gets
    /// another round for each time, up to seven.
    Clock,
    /// Newcomers prove themselves in a small log before they join the main one:
    /// S3-FIFO (Yang et al., SOSP 2023), with an eye to sizes.
    #[default]
    S3Fifo,
    /// What is read least often first: counts grow the slower the higher they are.
    Lfu,
    /// Whatever chance picks.
    Random,
    /// Of the records with a deadline, the soonest first; the others stay, and
    /// without any, writes are refused.
    VolatileTtl,
    /// Nothing is evicted: writes are refused until keys are deleted or expire.
    NoEviction,
}

/// What a policy's name in Redis means here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nearest {
    /// The policy that comes nearest.
    pub policy: Policy,
    /// What is different, for the log.
    pub difference: &'static str,
}

impl Policy {
    /// Every policy, in the order they are listed to users.
    pub const ALL: [Policy; 6] =
        [Policy::Clock, Policy::S3Fifo, Policy::Lfu, Policy::Random, Policy::VolatileTtl, Policy::NoEviction];

    /// The names that Redis has for policies, where it and Ringfence differ.
    const OF_REDIS: [(&'static str, Nearest); 6] = [
        ("allkeys-lru", Nearest { policy: Policy::Clock, difference: "recency is counted in rounds, not in seconds" }),
        ("allkeys-lfu", Nearest { policy: Policy::Lfu, difference: "counts have three bits" }),
        ("allkeys-random", Nearest { policy: Policy::Random, difference: "keys go by segments" }),
        ("volatile-lru", Nearest { policy: Policy::Clock, difference: "keys without a TTL are evicted too" }),
        ("volatile-lfu", Nearest { policy: Policy::Lfu, difference: "keys without a TTL are evicted too" }),
        ("volatile-random", Nearest { policy: Policy::Random, difference: "keys without a TTL are evicted too" }),
    ];

    /// The policy's name in configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Policy::Clock => "clock",
            Policy::S3Fifo => "s3fifo",
            Policy::Lfu => "lfu",
            Policy::Random => "random",
            Policy::VolatileTtl => "volatile-ttl",
            Policy::NoEviction => "noeviction",
        }
    }

    /// The policy called `name`.
    pub fn from_name(name: &str) -> Option<Policy> {
        Self::ALL.into_iter().find(|policy| policy.name() == name)
    }

    /// The policy nearest to the one that Redis calls `name`, if Ringfence has none of that name.
    pub fn nearest(name: &str) -> Option<Nearest> {
        Self::OF_REDIS.iter().find(|(of_redis, _)| *of_redis == name).map(|&(_, nearest)| nearest)
    }

    /// Whether live records stay wherever the hand meets them, so that only dead bytes are won.
    pub(super) const fn compacts(self) -> bool {
        matches!(self, Policy::VolatileTtl | Policy::NoEviction)
    }
}

impl std::str::FromStr for Policy {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::from_name(name).or_else(|| Self::nearest(name).map(|nearest| nearest.policy)).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|policy| policy.name()).collect();
            format!("`{name}` is not an eviction policy: write one of {}", names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_a_wrong_one_lists_the_right_ones() {
        for policy in Policy::ALL {
            assert_eq!(policy.name().parse(), Ok(policy));
            assert_eq!(Policy::nearest(policy.name()), None);
        }
        let error = "lru".parse::<Policy>().expect_err("not a policy");
        assert!(error.contains("clock, s3fifo, lfu, random, volatile-ttl, noeviction"), "{error}");
    }

    #[test]
    fn every_policy_of_redis_is_understood() {
        for name in ["noeviction", "volatile-ttl"] {
            assert_eq!(name.parse::<Policy>().map(Policy::name), Ok(name));
        }
        for kind in ["lru", "lfu", "random"] {
            for keys in ["allkeys", "volatile"] {
                let nearest = Policy::nearest(&format!("{keys}-{kind}")).expect("known");
                assert_eq!(nearest.policy.name(), if kind == "lru" { "clock" } else { kind });
            }
        }
    }
}

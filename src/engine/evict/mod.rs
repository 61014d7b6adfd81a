//! What gives way when the budget is reached: the policies and their names.
//!
//! The policies share one hand (`clock`), which walks segments; a policy decides
//! which segment it takes next and what happens to a live record it meets.

mod clock;

pub(super) use clock::{Grace, Hand};

/// What happens when the budget is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Oldest first; a record that was read since the hand last came by gets another round.
    #[default]
    Clock,
    /// Nothing is evicted: writes are refused until keys are deleted or expire.
    NoEviction,
}

impl Policy {
    /// Every policy, in the order they are listed to users.
    pub const ALL: [Policy; 2] = [Policy::Clock, Policy::NoEviction];

    /// The policy's name in configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Policy::Clock => "clock",
            Policy::NoEviction => "noeviction",
        }
    }

    /// The policy called `name`.
    pub fn from_name(name: &str) -> Option<Policy> {
        Self::ALL.into_iter().find(|policy| policy.name() == name)
    }
}

impl std::str::FromStr for Policy {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::from_name(name).ok_or_else(|| {
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
        }
        let error = "lru".parse::<Policy>().expect_err("not a policy");
        assert!(error.contains("clock, noeviction"), "{error}");
    }
}

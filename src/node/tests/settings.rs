//! Settings that change while the node runs.

use super::*;

fn host() -> Host {
    let mut host = Host::new(2, LIMITS);
    for node in &mut host.nodes {
        node.server.budgets.iter_mut().for_each(|budget| budget.bytes = 2 << 20);
        node.server.budgets.iter_mut().for_each(|budget| budget.most = 4 << 20);
    }
    host
}

#[test]
fn memory_and_policy_change_on_every_core_and_are_answered_by_each() {
    let mut host = host();
    let mut client = host.connect(0, Scope::Host);
    assert_eq!(host.ask(&mut client, "CONFIG SET maxmemory-policy allkeys-lfu maxmemory 2mb\r\n"), "+OK\r\n");
    for core in 0..2 {
        assert_eq!(host.nodes[core].shard().policy(), Policy::Lfu);
        assert_eq!(host.nodes[core].shard().memory().budget_bytes, 1 << 20, "half of it each");
        let mut client = host.connect(core, Scope::Host);
        let answer = host.ask(&mut client, "CONFIG GET maxmem* memory\r\n");
        assert_eq!(answer.matches("2097152").count(), 2, "{answer}");
        assert!(answer.contains("\r\nlfu\r\n"), "{answer}");
        let mut client = host.connect(core, Scope::Core);
        assert!(host.ask(&mut client, "CONFIG GET memory\r\n").contains("1048576"), "a core tells its own");
    }
}

#[test]
fn what_cannot_be_changed_is_refused_and_nothing_of_it_is_done() {
    let mut host = host();
    let mut client = host.connect(1, Scope::Host);
    for (command, error) in [
        ("CONFIG SET eviction clock memory 1tb", "can be set to 1 MiB at least and 4 MiB at most while it runs"),
        ("CONFIG SET eviction lru", "`lru` is not an eviction policy: write one of clock, "),
        ("CONFIG SET memory lots", "(possibly related to argument 'memory') - `lots` is not a size"),
        ("CONFIG SET save 60", "can't set immutable config"),
        ("CONFIG SET nonsense 1", "-ERR Unknown option or number of arguments for CONFIG SET - 'nonsense'"),
        ("CONFIG SET eviction lfu eviction random", "duplicate parameter"),
        ("CONFIG SET eviction lfu memory", "wrong number of arguments"),
    ] {
        let answer = host.ask(&mut client, format!("{command}\r\n"));
        assert!(answer.starts_with("-ERR ") && answer.contains(error), "{command}: {answer}");
        assert_eq!(host.nodes[0].shard().policy(), Policy::Clock, "{command}");
    }
}

#[test]
fn memory_stats_tell_of_all_cores_and_of_each() {
    let mut host = host();
    let mut client = host.connect(0, Scope::Host);
    for n in 0..40 {
        host.ask(&mut client, format!("SET k{n} value\r\n"));
        host.ask(&mut client, format!("GET k{n}\r\n"));
    }
    let answer = host.ask(&mut client, "MEMORY STATS\r\n");
    for part in ["keys.count\r\n:40\r\n", "core.0", "core.1", "hand.segment\r\n$-1", "reads.sampled\r\n*8\r\n:0\r\n"] {
        assert!(answer.contains(part), "{part} is not in {answer}");
    }
}

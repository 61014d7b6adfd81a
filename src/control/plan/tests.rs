//! Plans for hosts that need not exist.

use super::*;
use crate::control::host::MemorySource;

const CORE_MEMORY: CoreMemory = CoreMemory { least: 64 << 20, most: 16 << 30 };

/// A host with `cpus` CPUs and a GiB of memory for each.
fn host(cpus: usize) -> HostFacts {
    HostFacts {
        affinity: (0..cpus).collect(),
        memory_bytes: (cpus as u64) << 30,
        memory_from: MemorySource::Machine,
        file_descriptors_max: 1 << 20,
        address_space_max: u64::MAX,
    }
}

fn plan_on(facts: &HostFacts, text: &str) -> Result<Plan, String> {
    let config = Config::from_text("t.toml", text).map_err(|e| e.to_string())?;
    config.plan(facts, CORE_MEMORY).map_err(|e| e.to_string())
}

fn refusal(facts: &HostFacts, text: &str) -> String {
    plan_on(facts, text).expect_err(text)
}

#[test]
fn auto_leaves_the_first_of_many_cpus_to_the_control_thread() {
    let plan = plan_on(&host(4), "").unwrap();
    assert_eq!(plan.cores.iter().map(|core| core.cpu).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(plan.control_cpu, Some(0));
    assert_eq!(plan.notes, Vec::<String>::new());

    let plan = plan_on(&host(2), "").unwrap();
    assert_eq!(plan.cores.iter().map(|core| core.cpu).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(plan.control_cpu, None);
    assert_eq!(plan.cores[0].slots, [(0, 8191)]);
    assert_eq!(plan.cores[1].slots, [(8192, 16383)]);
    assert_eq!((plan.cores[0].port, plan.cores[1].port), (Some(16400), Some(16401)));
    assert_eq!(plan.cores[0].memory_bytes, (2u64 << 30) * 80 / 100 / 2);
}

#[test]
fn auto_takes_no_more_cores_than_there_can_be() {
    let plan = plan_on(&host(400), "").unwrap();
    assert_eq!(plan.cores.len(), CORES_MAX);
    assert_eq!(plan.notes, ["only 256 of 399 CPUs serve data: a process runs no more"]);
}

/// Whatever the number of cores, each slot has one owner.
#[test]
fn an_even_split_covers_every_slot_once() {
    for cores in 1..=CORES_MAX {
        let plan = plan_on(&host(cores), &format!("cores.cpus = \"0-{}\"", cores - 1)).unwrap();
        let all: Vec<u16> = plan.cores.iter().flat_map(|c| c.slots.iter()).flat_map(|&(a, b)| a..=b).collect();
        assert_eq!(all, (0..SLOT_COUNT as u16).collect::<Vec<_>>(), "{cores} cores");
    }
}

#[test]
fn a_core_may_have_its_own_memory_and_slots() {
    let text =
        "memory = \"8GB\"\ncores.cpus = [3, 1, 2]\n[[core]]\ncpu = 1\nmemory = \"4GB\"\nslots = \"0-99,200-299\"";
    let plan = plan_on(&host(16), text).unwrap();
    assert_eq!(plan.cores.iter().map(|c| (c.index, c.cpu)).collect::<Vec<_>>(), [(0, 3), (1, 1), (2, 2)]);
    assert_eq!(plan.cores.iter().map(|c| c.memory_bytes >> 30).collect::<Vec<_>>(), [2, 4, 2]);
    assert_eq!(plan.cores[1].slots, [(0, 99), (200, 299)]);
    assert_eq!(plan.cores[0].slots, [(100, 199), (300, 8291)]);
    assert_eq!(plan.cores[2].slots, [(8292, 16383)]);
}

#[test]
fn slots_must_have_one_owner_each() {
    let two = |a: &str, b: &str| {
        format!("cores.cpus = \"0-1\"\n[[core]]\ncpu = 0\nslots = \"{a}\"\n[[core]]\ncpu = 1\nslots = \"{b}\"")
    };
    let facts = host(2);
    assert!(plan_on(&facts, &two("0-8191", "8192-16383")).is_ok());
    let error = refusal(&facts, &two("0-8191", "8191-16383"));
    assert_eq!(error, "t.toml:4: `core.slots`: slot 8191 is named for CPU 0 and for CPU 1: name it once");
    let error = refusal(&facts, &two("0-99", "200-16382"));
    assert!(error.contains("no core owns the slots 100-199,16383"), "{error}");
    let error = refusal(&facts, "cores.cpus = \"0-1\"\n[[core]]\ncpu = 0\nslots = \"0-16383\"");
    assert!(error.contains("0 slots are left for 1 cores"), "{error}");
}

#[test]
fn cpus_must_be_ours() {
    let facts = HostFacts { affinity: vec![0, 1, 2, 3, 8], ..host(5) };
    let error = refusal(&facts, "cores.cpus = \"2-5\"");
    assert!(error.starts_with("t.toml:1: `cores.cpus`: CPU 4 is outside the affinity mask 0-3,8:"), "{error}");
    assert!(refusal(&host(300), "cores.cpus = \"0-299\"").contains("at most 256"));
    assert!(refusal(&facts, "cores.cpus = []").contains("not a list of CPUs"));
    assert!(refusal(&HostFacts { affinity: Vec::new(), ..host(1) }, "").contains("no CPU at all"));
    assert!(refusal(&facts, "[[core]]\ncpu = 0").contains("CPU 0 serves no data: `cores.cpus` is 1-3,8"));
    assert!(refusal(&facts, "[[core]]\ncpu = 1\n[[core]]\ncpu = 1").contains("CPU 1 has two sections"));
    assert_eq!(plan_on(&facts, "cores.cpus = \"0,2\"").unwrap().control_cpu, Some(1));
}

#[test]
fn memory_must_be_there_and_be_enough() {
    let error = refusal(&host(2), "memory = \"3GB\"");
    assert!(error.contains("3 GiB is more than there is: the machine's memory is 2 GiB"), "{error}");
    let error = refusal(&host(2), "memory = \"100MB\"");
    assert!(error.contains("CPU 0 would get 50 MiB, and a core needs at least 64 MiB"), "{error}");
    let error = refusal(&host(2), "memory = \"1GB\"\n[[core]]\ncpu = 1\nmemory = \"2GB\"");
    assert!(error.starts_with("t.toml:4: `core.memory`: the cores name 2 GiB together"), "{error}");
    let error = refusal(&host(2), "memory = \"1GB\"\n[[core]]\ncpu = 1\nmemory = \"1GB\"");
    assert!(error.contains("CPU 0 would get 0 B"), "{error}");
}

#[test]
fn no_two_listeners_meet() {
    let facts = host(4);
    let error = refusal(&facts, "listen.port = 9600");
    assert_eq!(error, "t.toml:1: `listen.port`: port 9600 is both `port` and `admin_port`: change one");
    let error = refusal(&facts, "listen.admin_port = 16402");
    assert!(error.starts_with("t.toml:1: `listen.admin_port`: port 16402 is needed twice"), "{error}");
    assert!(plan_on(&facts, "listen.admin_port = 16403").is_ok(), "three cores use 16400 to 16402");
    let error = refusal(&facts, "listen.core_port_base = 6377");
    assert!(error.starts_with("t.toml:1: `listen.core_port_base`: port 6379 is needed twice"), "{error}");
    let error = refusal(&facts, "listen.core_port_base = 65534");
    assert!(error.contains("3 cores need ports up to 65536: at most 65533 fits"), "{error}");
    let plan = plan_on(&facts, "[listen]\nport = 0\nadmin_port = 0").unwrap();
    assert_eq!((plan.listen.port, plan.listen.admin), (None, None));
}

#[test]
fn connections_that_nobody_chose_shrink_to_fit() {
    let facts = HostFacts { file_descriptors_max: 1024, ..host(2) };
    let plan = plan_on(&facts, "").unwrap();
    assert_eq!(plan.limits.connections, 1024 - 2 * 64 - 64);
    assert_eq!(plan.file_descriptors, 1024);
    assert!(plan.notes[0].starts_with("limits.connections is 832 instead of 10000"), "{:?}", plan.notes);

    let error = refusal(&facts, "limits.connections = 10000");
    assert!(error.contains("need 10192 open files; 1024 are allowed"), "{error}");
    assert!(error.contains("`ulimit -n 10192` or systemd's LimitNOFILE=10192"), "{error}");
    assert!(refusal(&HostFacts { file_descriptors_max: 192, ..host(2) }, "").contains("192 are allowed"));
    assert_eq!(plan_on(&host(2), "limits.connections = 100").unwrap().file_descriptors, 100 + 192);
}

#[test]
fn clients_are_told_where_to_connect() {
    let announce = |text: &str| plan_on(&host(1), text).unwrap().listen.announce;
    assert_eq!(announce("").as_deref(), Some("127.0.0.1"));
    assert_eq!(announce("listen.bind = \"::\""), None);
    assert_eq!(announce("listen.bind = \"::\"\nlisten.announce = \"cache-1\"").as_deref(), Some("cache-1"));
    let plan = plan_on(&host(1), "listen.bind = \"0.0.0.0\"").unwrap();
    assert!(plan.notes[0].contains("firewall"), "{:?}", plan.notes);
}

#[test]
fn the_summary_names_each_core() {
    let text = plan_on(&host(2), "").unwrap().to_string();
    assert!(text.starts_with("core 0: CPU 0, 819.20 MiB, slots 0-8191, port 16400\ncore 1: "), "{text}");
    assert!(text.contains("clients: 127.0.0.1:6379\nadmin: http://127.0.0.1:9600/\n"), "{text}");
}

/// Every ready profile is valid, and serves on a usual host of 16 CPUs and 64 GiB.
#[test]
fn every_profile_plans() {
    let facts = HostFacts { memory_bytes: 64 << 30, ..host(16) };
    let profiles = [
        ("latency", include_str!("../../../tuning/latency.toml"), Idle::Busy),
        ("throughput", include_str!("../../../tuning/throughput.toml"), Idle::Adaptive),
        ("laptop", include_str!("../../../tuning/laptop.toml"), Idle::Park),
        ("shared-host", include_str!("../../../tuning/shared-host.toml"), Idle::Park),
    ];
    for (name, text, idle) in profiles {
        let plan = Config::from_text(name, text).and_then(|c| c.plan(&facts, CORE_MEMORY)).unwrap();
        assert_eq!(plan.idle, idle, "{name}");
        assert!(plan.control_cpu.is_some(), "{name} leaves a CPU to the control thread");
    }
}

#[test]
fn a_narrow_address_space_is_refused_before_anything_is_mapped() {
    let facts = HostFacts { address_space_max: 2 << 30, ..host(2) };
    assert!(plan_on(&facts, "memory = \"256MB\"").is_ok());
    let text = refusal(&facts, "memory = \"1700MB\"");
    assert!(text.contains("`memory`") && text.contains("ulimit -v") && text.contains("2 GiB are allowed"), "{text}");
}

#[test]
fn memory_that_a_core_cannot_use_is_left_or_refused() {
    let facts = HostFacts { memory_bytes: 256 << 30, ..host(2) };
    let plan = plan_on(&facts, "").unwrap();
    assert!(plan.cores.iter().all(|core| core.memory_bytes == 16 << 30));
    assert!(plan.notes.iter().any(|note| note.contains("16 GiB")), "{:?}", plan.notes);
    let refused = refusal(&facts, "memory = \"64GB\"");
    assert!(refused.contains("`memory`") && refused.contains("at most 16 GiB"), "{refused}");
}

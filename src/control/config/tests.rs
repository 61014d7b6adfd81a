//! The configuration as its users meet it: files, overrides, errors, the printed form.

use std::time::Duration;

use super::values::{CpuList, LogFormat, Memory, Size};
use super::*;

fn read(text: &str) -> Result<Config, String> {
    Config::from_text("t.toml", text).map_err(|e| e.to_string())
}

fn refusal(text: &str) -> String {
    let error = read(text).expect_err(text);
    assert_eq!(error.lines().count(), 1, "an error is one line: {error}");
    error
}

fn load(sets: &[&str]) -> Result<Config, String> {
    let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
    Config::load(None, &sets).map_err(|e| e.to_string())
}

#[test]
fn an_empty_file_means_the_defaults() {
    let config = read("").unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(config.memory, Memory::Percent(80));
    assert_eq!((config.listen.port, config.listen.core_port_base, config.listen.admin_port), (6379, 16400, 9600));
    assert_eq!((config.limits.connections, config.limits.key_bytes), (10_000, Size(65_535)));
}

#[test]
fn every_kind_of_value_is_read() {
    let config = read(
        "memory = \"12GiB\"\neviction = \"noeviction\"\n\
         [cores]\ncpus = [2, 4, 6]\nspin = \"250us\"\n\
         [[core]]\ncpu = 4\nslots = \"0-9\"\nmemory = \"10%\"\n\
         [listen]\nbind = \"::1\"\nannounce = \"cache-1.example\"\n\
         [limits]\nkey_bytes = 250\nvalue_bytes = \"1m\"\n\
         [log]\nformat = \"json\"\nlevel = \"info,ringfence::io=debug\"",
    )
    .unwrap();
    assert_eq!((config.memory, config.eviction), (Memory::Bytes(12 << 30), "noeviction".parse().unwrap()));
    assert_eq!(config.cores.cpus, CpuList::These(vec![2, 4, 6]));
    assert_eq!(config.cores.spin.0, Duration::from_micros(250));
    assert_eq!((config.core[0].cpu, config.core[0].memory), (4, Some(Memory::Percent(10))));
    assert_eq!(config.core[0].slots.as_ref().unwrap().0, [(0, 9)]);
    assert!(config.listen.bind.is_ipv6() && config.log.format == LogFormat::Json);
    assert_eq!((config.limits.key_bytes, config.limits.value_bytes), (Size(250), Size(1 << 20)));
}

#[test]
fn unknown_keys_are_refused_with_the_nearest() {
    assert_eq!(refusal("memroy = \"1GB\""), "t.toml:1: unknown key `memroy`: did you mean `memory`?");
    assert_eq!(refusal("\n[listen]\nprot = 1"), "t.toml:3: unknown key `listen.prot`: did you mean `listen.port`?");
    assert_eq!(refusal("port = 1"), "t.toml:1: unknown key `port`: did you mean `listen.port`?");
    assert_eq!(
        refusal("[[core]]\ncpu = 1\nslot = \"1\""),
        "t.toml:3: unknown key `core.slot`: did you mean `core.slots`?"
    );
    assert_eq!(refusal("[listne]\nport = 1"), "t.toml:1: unknown key `listne`: did you mean `listen`?");
    assert_eq!(
        refusal("[replication]\nx = 1"),
        "t.toml:1: unknown key `replication`: ringfence --print-config lists the keys"
    );
    assert_eq!(refusal("listen = 1"), "t.toml:1: unknown key `listen`: `listen` is a section: set the keys in it");
}

#[test]
fn wrong_values_are_refused_with_place_name_and_remedy() {
    assert_eq!(
        refusal("# hello\n\nmemory = \"lots\""),
        "t.toml:3: `memory`: `lots` is not a size: write a number of bytes, or one with a unit such as 64MB or 1GiB, or a part such as 80%"
    );
    assert!(refusal("[cores]\nspin = 20").starts_with("t.toml:2: `cores.spin`: `20` is not a length of time:"));
    assert!(refusal("[listen]\nport = 70000").ends_with("expected a whole number from 0 to 65535"));
    assert!(refusal("[listen]\nport = \"6379\"").starts_with("t.toml:2: `listen.port`: invalid type: string"));
    assert!(refusal("[listen]\nbind = \"localhost\"").starts_with("t.toml:2: `listen.bind`: invalid IP address"));
    assert!(
        refusal("eviction = \"lru\"")
            .starts_with("t.toml:1: `eviction`: `lru` is not an eviction policy: write one of")
    );
    assert_eq!(refusal("[[core]]\nmemory = \"1GB\""), "t.toml:1: `core`: missing field `cpu`");
    assert!(refusal("[log]\nlevel = \"inof\"").starts_with("t.toml:2: `log.level`: `inof` is not a level:"));
    assert!(refusal("[listen]\nannounce = \"a b\"").contains("`a b` is not a host name"));
    assert!(
        refusal("[listen]\nport = 0\ncore_port_base = 0\nmemcached_port = 0\nhttp_port = 0")
            .contains("no client could connect")
    );
    assert!(refusal("[cores]\nspin = \"2s\"").ends_with("2s is more than 1s"));
    assert!(refusal("memory = \n").starts_with("t.toml:1: not TOML:"));
    assert!(refusal("memory = \"1GB\"\nmemory = \"2GB\"").starts_with("t.toml:2: not TOML: duplicate key"));
}

#[test]
fn limits_have_hard_maxima_and_fit_each_other() {
    for (text, complaint) in [
        ("connections = 1000001", "1000001 is outside 1 to 1000000"),
        ("connections = 0", "0 is outside 1 to 1000000"),
        ("key_bytes = \"64KB\"", "64KB is outside 1 to 65535"),
        ("value_bytes = \"513MB\"", "513MB is outside 1 to 512MB"),
        ("args = 1048577", "1048577 is outside 1 to 1048576"),
        ("request_bytes = \"2GB\"", "2GB is outside 1 to 1GB"),
        ("output_hard_bytes = \"5GB\"", "5GB is outside 1 to 4GB"),
        ("request_bytes = \"8MB\"", "`limits.request_bytes` is 8MB but `limits.value_bytes` needs at least 8320KB"),
        (
            "output_hard_bytes = \"4MB\"",
            "`limits.output_hard_bytes` is 4MB but `limits.value_bytes` needs at least 8MB",
        ),
        ("output_soft_bytes = \"1GB\"", "`limits.output_hard_bytes` is 256MB but `limits.output_soft_bytes` needs"),
    ] {
        let error = refusal(&format!("[limits]\n{text}"));
        let key = text.split(' ').next().unwrap();
        assert!(error.starts_with(&format!("t.toml:2: `limits.{key}`: ")), "{error}");
        assert!(error.contains(complaint), "{error}");
    }
    let most = "[limits]\nconnections = 1000000\nkey_bytes = 65535\nvalue_bytes = \"512MB\"\n\
                request_bytes = \"1GB\"\noutput_soft_bytes = \"4GB\"\noutput_hard_bytes = \"4GB\"";
    assert!(read(most).is_ok());
}

#[test]
fn sets_are_toml_or_bare_text() {
    let config = load(&[
        "listen.port=6380",
        "listen.bind=::1",
        "memory=\"1GB\"",
        "cores.cpus=[1,2]",
        "core=[{cpu=2,memory=\"256MB\"}]",
        "limits.value_bytes = 1MB",
        "limits.value_bytes=2MB",
    ])
    .unwrap();
    assert_eq!((config.listen.port, config.listen.bind.to_string()), (6380, "::1".to_string()));
    assert_eq!((config.memory, config.core[0].cpu), (Memory::Bytes(1 << 30), 2));
    assert_eq!(config.limits.value_bytes, Size(2 << 20), "the last one wins");
    assert_eq!(config.sources.of("listen.port"), Some("--set listen.port"));
    assert_eq!(config.sources.of("listen.announce"), None);
}

#[test]
fn a_wrong_set_is_named() {
    let error = |set: &str| load(&[set]).unwrap_err();
    assert_eq!(error("listen.port"), "--set listen.port: write it as key=value, such as listen.port=6380");
    assert!(error("=3").contains("write it as key=value"));
    assert_eq!(error("memroy=1GB"), "--set memroy: unknown key `memroy`: did you mean `memory`?");
    assert!(error("listen.port=x").starts_with("--set listen.port: `listen.port`: invalid type: string"));
    assert!(error("core.cpu=3").contains("write the list whole"));
    assert!(error("core=3").starts_with("--set core: `core`: invalid type"));
    assert!(error("listen=3").contains("is a section"));
    assert!(error("limits.connections=0").starts_with("--set limits.connections: `limits.connections`: 0 is outside"));
}

#[test]
fn sets_win_over_the_file() {
    let path = std::env::temp_dir().join(format!("ringfence-config-{}.toml", std::process::id()));
    std::fs::write(&path, "[listen]\nport = 1000\nadmin_port = 2000\n").unwrap();
    let config = Config::load(Some(&path), &["listen.port=3000".to_string()]);
    std::fs::remove_file(&path).unwrap();
    let config = config.unwrap();
    assert_eq!((config.listen.port, config.listen.admin_port), (3000, 2000));
    assert_eq!(config.sources.of("listen.admin_port"), Some(&*format!("{}:3", path.display())));
}

#[test]
fn the_printed_configuration_reads_back() {
    let changed = load(&[
        "memory=3GB",
        "eviction=noeviction",
        "cores.cpus=5,2-3",
        "cores.idle=busy",
        "cores.spin=1ms",
        "core=[{cpu=2,slots=\"0-99,200\"},{cpu=3,memory=\"10%\"}]",
        "listen.bind=::",
        "listen.announce=cache-1",
        "limits.output_soft_bytes=12345",
        "log.level='info,ringfence[a{b=\"c\"}]=debug'",
    ])
    .unwrap();
    for config in [Config::default(), changed] {
        let printed = config.print();
        assert_eq!(Config::from_text("printed", &printed).unwrap(), config, "{printed}");
    }
}

#[test]
fn the_printed_configuration_explains_every_key() {
    let printed = load(&["listen.port=7000"]).unwrap().print();
    assert!(printed.contains("\n# The default is 6379.\nport = 7000\n"), "{printed}");
    for section in &settings::SECTIONS {
        for key in section.keys {
            let line = format!("\n#{}\n", key.doc[0]);
            assert!(printed.contains(&line), "{}.{} is not explained", section.name, key.name);
        }
    }
}

/// Run with `RINGFENCE_WRITE_DOCS=1` to write the page after changing a key.
#[test]
fn the_reference_page_is_what_the_declarations_say() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
    if std::env::var_os("RINGFENCE_WRITE_DOCS").is_some() {
        std::fs::write(path, Config::reference()).unwrap();
    }
    let page = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        page == Config::reference(),
        "docs/configuration.md is stale: RINGFENCE_WRITE_DOCS=1 cargo test --lib reference_page"
    );
}

#[test]
fn rules_for_prefixes_are_read_and_checked() {
    let config = read(
        "[expiry]\njitter = \"2.5%\"\nmax_ttl = \"24h\"\n\
         [[prefix]]\nname = \"session:\"\ndefault_ttl = \"30m\"\n[[prefix]]\nname = \"feed:\"\nmax_ttl = \"1h\"",
    )
    .unwrap();
    assert_eq!(config.expiry.jitter, values::Part(25_000));
    assert_eq!(config.prefix[0].default_ttl.unwrap().0, Duration::from_secs(1800));
    assert_eq!(read(&config.print()).unwrap(), config);
    for (text, message) in [
        ("[expiry]\njitter = \"60%\"", "t.toml:2: `expiry.jitter`: 60% is more than 50%"),
        (
            "[expiry]\njitter = 5",
            "t.toml:2: `expiry.jitter`: `5` is not a part: write a number from 0% to 100%, such as 5%",
        ),
        (
            "[expiry]\ndefault_ttl = \"2h\"\nmax_ttl = \"1h\"",
            "t.toml:2: `expiry.default_ttl`: 2h is more than `expiry.max_ttl`, 1h",
        ),
        ("[[prefix]]\ndefault_ttl = \"2h\"", "t.toml:1: `prefix`: missing field `name`"),
        ("[[core]]\ncpu = 1\n[[prefix]]\nmax_ttl = \"2h\"", "t.toml:3: `prefix`: missing field `name`"),
        (
            "[[prefix]]\nname = \"a\"\nmax_tl = \"2h\"",
            "t.toml:3: unknown key `prefix.max_tl`: did you mean `prefix.max_ttl`?",
        ),
    ] {
        assert_eq!(refusal(text), message, "{text}");
    }
    for (text, part) in [
        ("[[prefix]]\nname = \"\"", "a prefix has 1 to 255 bytes"),
        ("[[prefix]]\nname = \"a\"\n[[prefix]]\nname = \"a\"", "\"a\": it is there twice"),
        (
            "[[prefix]]\nname = \"a\"\ndefault_ttl = \"2h\"\nmax_ttl = \"1h\"",
            "default_ttl, 2h, is more than max_ttl, 1h",
        ),
    ] {
        assert!(refusal(text).contains(part), "{}", refusal(text));
    }
}

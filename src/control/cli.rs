//! The command line: which file, what to change in it, and what to do.

use std::path::PathBuf;

use clap::Parser;

use super::config::{Config, ConfigError, Override};

/// A distributed in-memory cache: one core, one slice of the keys.
///
/// Ringfence pins a core to each CPU it is given. Each core owns a part of the
/// keys and serves it alone. Every Redis client can use it; cluster clients reach
/// the owner of each key at once.
#[derive(Clone, Debug, Default, Parser)]
#[command(name = "ringfence", version, after_help = AFTER_HELP, after_long_help = AFTER_LONG_HELP)]
pub struct Cli {
    /// Read this TOML file. Without it the defaults hold.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Set one key, as if it stood in the file. May be repeated.
    ///
    /// The value is TOML, or plain text where it is not: `--set listen.bind=::1`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,

    /// The shared port [default: 6379].
    #[arg(long, value_name = "N")]
    pub port: Option<u16>,

    /// The IP address to listen on [default: 127.0.0.1].
    #[arg(long, value_name = "ADDR")]
    pub bind: Option<String>,

    /// The CPUs that serve data: `auto`, `2-15` or `0,2,4` [default: auto].
    #[arg(long, value_name = "LIST")]
    pub cpus: Option<String>,

    /// Memory for all cores: `12GB`, or a part such as `80%` [default: 80%].
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,

    /// What idle cores do: `park`, `adaptive` or `busy` [default: adaptive].
    #[arg(long, value_name = "MODE")]
    pub idle: Option<String>,

    /// Say whether this host can serve the configuration, and which core gets what; then exit.
    #[arg(long)]
    pub check_config: bool,

    /// Print the configuration in effect, with every key explained; then exit.
    #[arg(long)]
    pub print_config: bool,
}

const AFTER_HELP: &str = "Flags win over --set, and --set over the file. --help says more.";

const AFTER_LONG_HELP: &str = "\
Flags win over --set, --set over the file, the file over the defaults.

Examples:
  ringfence
      Serve on 127.0.0.1:6379, with 80 % of the memory and every CPU but the first.
  ringfence --memory 12GB --cpus 2-15 --idle busy
      A dedicated host: fourteen cores that never sleep.
  ringfence --config tuning/latency.toml --set limits.connections=50000
      A ready profile, with one key changed.
  ringfence --config cache.toml --check-config
      Is the file right, and can this host serve it?
  ringfence --print-config > cache.toml
      A file to start from: every key, its value and what it means.

Then:
  redis-cli -p 6379 set greeting hello
  curl http://127.0.0.1:9600/metrics

Documentation:
  docs/configuration.md   every key
  docs/tuning-a-host.md   what to change on the host, and what it buys
  tuning/                 ready profiles";

impl Cli {
    /// The configuration that the command line asks for: defaults, file, `--set`, flags.
    ///
    /// # Errors
    /// If the file cannot be read, or any value is refused.
    pub fn load(&self) -> Result<Config, ConfigError> {
        let mut overrides = self.sets.iter().map(|text| Override::parse(text)).collect::<Result<Vec<_>, _>>()?;
        overrides.extend(self.port.map(|port| Override::flag("--port", "listen.port", i64::from(port))));
        let flags = [
            ("--bind", "listen.bind", &self.bind),
            ("--cpus", "cores.cpus", &self.cpus),
            ("--memory", "memory", &self.memory),
            ("--idle", "cores.idle", &self.idle),
        ];
        for (flag, key, value) in flags {
            overrides.extend(value.as_ref().map(|value| Override::flag(flag, key, value.as_str())));
        }
        Config::load_with(self.config.as_deref(), &overrides)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::config::values::{CpuList, Idle, Memory};
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("ringfence").chain(line.split_whitespace()))
    }

    #[test]
    fn the_command_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_win_over_sets() {
        let line =
            "--set listen.port=1000 --set cores.spin=5us --port 2000 --bind ::1 --cpus 2 --memory 1GB --idle busy";
        let config = parse(line).unwrap().load().unwrap();
        assert_eq!(config.listen.port, 2000);
        assert_eq!(config.listen.bind.to_string(), "::1");
        assert_eq!(config.cores.cpus, CpuList::These(vec![2]));
        assert_eq!(config.cores.spin.to_string(), "5us");
        assert_eq!(config.memory, Memory::Bytes(1 << 30));
        assert_eq!(config.cores.idle, Idle::Busy);
    }

    #[test]
    fn errors_name_the_flag() {
        let error = |line: &str| parse(line).unwrap().load().unwrap_err().to_string();
        assert_eq!(error("--idle lazy"), "--idle: `cores.idle`: `lazy` is none of: park, adaptive, busy");
        assert!(error("--set listen.prot=1").ends_with("unknown key `listen.prot`: did you mean `listen.port`?"));
        assert!(error("--config /nowhere.toml").starts_with("/nowhere.toml: cannot be read:"));
    }

    #[test]
    fn what_is_no_flag_is_refused() {
        for wrong in ["6379", "--prot 6379", "--port many", "--port 70000"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    /// The help repeats some defaults; they must be the ones in the code.
    #[test]
    fn help_teaches_and_tells_the_true_defaults() {
        let help = Cli::command().render_long_help().to_string();
        let config = Config::default();
        for default in [
            config.listen.port.to_string(),
            config.listen.bind.to_string(),
            config.cores.cpus.to_string(),
            config.memory.to_string(),
            config.cores.idle.to_string(),
        ] {
            assert!(help.contains(&format!("[default: {default}]")), "{default} is not in the help");
        }
        assert!(help.contains("Examples:") && help.contains("docs/configuration.md"));
    }
}

//! What the host allows, read from /proc and the control groups. [`HostFacts`] is
//! plain data, so that a plan can be made, and tested, for any host.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use super::config::ranges::parse_ranges;

/// What the host allows this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// The CPUs that the process may run on, ascending.
    pub affinity: Vec<usize>,
    /// The least of the machine's memory and the limits of the control groups above us.
    pub memory_bytes: u64,
    /// Which of the two it was.
    pub memory_from: MemorySource,
    /// The most files that the process can be allowed to open: the hard limit.
    pub file_descriptors_max: u64,
    /// The addresses that the process may map, in bytes: the soft limit.
    pub address_space_max: u64,
}

/// What decides how much memory there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemorySource {
    /// The machine's own memory.
    Machine,
    /// The limit of a control group: a container or a systemd unit.
    ControlGroup,
}

impl fmt::Display for MemorySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Machine => "the machine's memory",
            Self::ControlGroup => "the control group's limit",
        })
    }
}

/// Why the host could not be read. Each variant's comment is its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostError {
    /// {path}: cannot be read: {reason}: Ringfence needs Linux with /proc mounted
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// {path}: has no line `{field}` that Ringfence understands
    Unexpected {
        /// The file.
        path: PathBuf,
        /// The line that was looked for.
        field: &'static str,
    },
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, reason } => {
                write!(f, "{}: cannot be read: {reason}: Ringfence needs Linux with /proc mounted", path.display())
            }
            Self::Unexpected { path, field } => {
                write!(f, "{}: has no line `{field}` that Ringfence understands", path.display())
            }
        }
    }
}

impl std::error::Error for HostError {}

impl HostFacts {
    /// Reads the facts of this host and process. Call it before any thread is
    /// pinned: a pinned thread's mask is one CPU.
    ///
    /// # Errors
    /// If /proc is not mounted or not as Linux writes it.
    pub fn read() -> Result<Self, HostError> {
        Self::read_below(Path::new("/"))
    }

    fn read_below(root: &Path) -> Result<Self, HostError> {
        let machine = machine_memory(root)?;
        let group = group_memory(root).filter(|limit| *limit < machine);
        Ok(Self {
            affinity: affinity(root)?,
            memory_bytes: group.unwrap_or(machine),
            memory_from: if group.is_some() { MemorySource::ControlGroup } else { MemorySource::Machine },
            file_descriptors_max: limit(root, "Max open files", HARD)?,
            address_space_max: limit(root, "Max address space", SOFT)?,
        })
    }
}

/// The rest of the line that starts with `field`.
fn line(root: &Path, file: &str, field: &'static str) -> Result<(PathBuf, String), HostError> {
    let path = root.join(file);
    let text =
        fs::read_to_string(&path).map_err(|e| HostError::Unreadable { path: path.clone(), reason: e.to_string() })?;
    match text.lines().find_map(|line| line.strip_prefix(field)) {
        Some(rest) => Ok((path, rest.trim().to_string())),
        None => Err(HostError::Unexpected { path, field }),
    }
}

fn affinity(root: &Path) -> Result<Vec<usize>, HostError> {
    let field = "Cpus_allowed_list:";
    let (path, text) = line(root, "proc/self/status", field)?;
    let ranges = parse_ranges(&text).ok_or(HostError::Unexpected { path, field })?;
    Ok(ranges.into_iter().flat_map(|(first, last)| first..=last).collect())
}

/// How much of this process's memory is in huge pages.
///
/// # Errors
/// If /proc does not tell.
pub fn huge_page_bytes() -> Result<u64, HostError> {
    kibibytes(Path::new("/"), "proc/self/smaps_rollup", "AnonHugePages:")
}

fn machine_memory(root: &Path) -> Result<u64, HostError> {
    kibibytes(root, "proc/meminfo", "MemTotal:")
}

fn kibibytes(root: &Path, file: &str, field: &'static str) -> Result<u64, HostError> {
    let (path, text) = line(root, file, field)?;
    let kib = text.split_whitespace().next().and_then(|n| n.parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or(HostError::Unexpected { path, field })
}

/// Which of the two numbers of a limit.
const SOFT: usize = 0;
const HARD: usize = 1;

fn limit(root: &Path, field: &'static str, which: usize) -> Result<u64, HostError> {
    let (path, text) = line(root, "proc/self/limits", field)?;
    match text.split_whitespace().nth(which) {
        Some("unlimited") => Ok(u64::MAX),
        limit => limit.and_then(|n| n.parse().ok()).ok_or(HostError::Unexpected { path, field }),
    }
}

/// The least memory limit of our control group and those above it, in both
/// versions of the interface. In a container the path may name a group of the
/// host that is not visible here; then the climb ends at the mount's root, which
/// is the container's own group.
fn group_memory(root: &Path) -> Option<u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mut limits = Vec::new();
    for group in groups.lines() {
        let mut fields = group.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (mounts, file): (&[&str], _) = if controllers.is_empty() {
            (&["sys/fs/cgroup", "sys/fs/cgroup/unified"], "memory.max")
        } else if controllers.split(',').any(|c| c == "memory") {
            (&["sys/fs/cgroup/memory"], "memory.limit_in_bytes")
        } else {
            continue;
        };
        for mount in mounts {
            let inside = Path::new(path.trim_start_matches('/'));
            for ancestor in inside.ancestors() {
                let text = fs::read_to_string(root.join(mount).join(ancestor).join(file)).unwrap_or_default();
                // "max" is no number, and version 1 writes a number beyond any machine.
                limits.extend(text.trim().parse::<u64>().ok());
            }
        }
    }
    limits.into_iter().min()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree of files that stands for a host.
    struct Host(PathBuf);

    impl Host {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("ringfence-host-{name}-{}", std::process::id()));
            let usual = [
                ("proc/self/status", "Name:\tx\nCpus_allowed:\tff\nCpus_allowed_list:\t0-3,8\n"),
                ("proc/meminfo", "MemTotal:       16384 kB\nMemFree: 1 kB\n"),
                (
                    "proc/self/limits",
                    "Limit  Soft Limit  Hard Limit  Units\nMax open files    1024    524288    files\n\
                     Max address space         4294967296           unlimited            bytes\n",
                ),
            ];
            for (path, text) in usual.iter().chain(files) {
                let path = root.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Self(root)
        }
    }

    impl Drop for Host {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_plain_machine() {
        let host = Host::new("plain", &[("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", "max\n")]);
        let facts = HostFacts::read_below(&host.0).unwrap();
        assert_eq!(facts.affinity, [0, 1, 2, 3, 8]);
        assert_eq!((facts.memory_bytes, facts.memory_from), (16 << 20, MemorySource::Machine));
        assert_eq!((facts.file_descriptors_max, facts.address_space_max), (524_288, 4 << 30));
    }

    #[test]
    fn the_tightest_group_above_us_decides() {
        let host = Host::new(
            "nested",
            &[
                ("proc/self/cgroup", "0::/system.slice/ringfence.service\n"),
                ("sys/fs/cgroup/system.slice/memory.max", "4194304\n"),
                ("sys/fs/cgroup/system.slice/ringfence.service/memory.max", "8388608\n"),
            ],
        );
        let facts = HostFacts::read_below(&host.0).unwrap();
        assert_eq!((facts.memory_bytes, facts.memory_from), (4 << 20, MemorySource::ControlGroup));
    }

    #[test]
    fn a_container_of_version_1_sees_its_limit_at_the_root_of_the_mount() {
        let host = Host::new(
            "v1",
            &[
                ("proc/self/cgroup", "5:cpu:/docker/abc\n4:memory:/docker/abc\n"),
                ("sys/fs/cgroup/memory/memory.limit_in_bytes", "2097152\n"),
            ],
        );
        assert_eq!(HostFacts::read_below(&host.0).unwrap().memory_bytes, 2 << 20);
    }

    #[test]
    fn a_missing_line_is_named() {
        let host = Host::new("odd", &[("proc/meminfo", "MemFree: 1 kB\n")]);
        let error = HostFacts::read_below(&host.0).unwrap_err().to_string();
        assert!(error.ends_with("proc/meminfo: has no line `MemTotal:` that Ringfence understands"), "{error}");
        assert!(HostFacts::read_below(Path::new("/nowhere")).unwrap_err().to_string().contains("/proc mounted"));
    }

    #[test]
    fn this_host_can_be_read() {
        let facts = HostFacts::read().unwrap();
        assert!(!facts.affinity.is_empty() && facts.memory_bytes > 0 && facts.file_descriptors_max > 0);
    }
}

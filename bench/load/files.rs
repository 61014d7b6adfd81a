//! The files that a run writes. They are opened before it begins, so that a folder
//! that does not exist is known before and not after an hour of load, and they take
//! their names only when they are whole. What is no plain file, such as a FIFO, keeps
//! its place and is written to; a link stays one, and what it leads to is written.

use std::fs::{self, File, Metadata};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use crate::cli::Cli;
use crate::outcome::Report;
use crate::report;

/// How many links one path may lead over.
const LINKS_MAX: usize = 40;
/// How long a FIFO may be without a reader.
const READER_LIMIT: Duration = Duration::from_secs(5);
/// Between two looks for one.
const POLL: Duration = Duration::from_millis(10);

/// Makes the text of a file.
type Renderer = fn(&Report) -> String;

/// A file that has not been written yet.
struct Pending {
    file: File,
    /// What it is called while it is written; `None` if it is written where it is.
    part: Option<PathBuf>,
    /// Where it is in the end, behind all links.
    path: PathBuf,
    render: Renderer,
}

/// Everything that is to be written.
pub struct Files {
    pending: Vec<Pending>,
}

impl Files {
    /// Opens what the options name.
    ///
    /// # Errors
    /// One line: the option, the file and the system's reason.
    pub fn open(cli: &Cli) -> Result<Self, String> {
        let mut files = Files { pending: Vec::new() };
        let renderers: [Renderer; 3] = [report::csv::render, report::hgrm::render, report::html::render];
        let wanted = [("--csv", &cli.csv), ("--hgrm", &cli.hgrm), ("--html", &cli.html)];
        for ((option, path), render) in wanted.into_iter().zip(renderers) {
            let Some(path) = path else { continue };
            let named = |why: String| format!("{option}: {}: {why}", path.display());
            let place = resolve(path).map_err(named)?;
            if files.pending.iter().any(|other| other.path == place) {
                return Err(named("is the file of another option too: give each a name of its own".into()));
            }
            files.pending.push(open(place, render).map_err(named)?);
        }
        Ok(files)
    }

    /// Writes the report into all of them.
    ///
    /// # Errors
    /// One line: the file and the system's reason. Nothing is left half-written.
    pub fn write(mut self, report: &Report) -> Result<(), String> {
        for pending in &mut self.pending {
            let written = pending.file.write_all((pending.render)(report).as_bytes());
            let named = written.and_then(|()| match &pending.part {
                Some(part) => fs::rename(part, &pending.path),
                None => Ok(()),
            });
            named.map_err(|error| format!("{}: cannot be written: {error}", pending.path.display()))?;
        }
        Ok(())
    }
}

/// Where a path leads, over links, of which the last may lead to what is not there yet.
fn resolve(path: &Path) -> Result<PathBuf, String> {
    let mut place = path.to_owned();
    for _ in 0..LINKS_MAX {
        let folder = place.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let Some(name) = place.file_name() else { break };
        place = fs::canonicalize(folder).map_err(|error| unwritable(&error))?.join(name);
        match fs::read_link(&place) {
            // What is behind a link of /proc cannot always be named: it is opened by the link.
            Ok(_) if place.starts_with("/proc") => return Ok(place),
            Ok(next) => place = place.parent().expect("a folder was put before it").join(next),
            Err(_) => return Ok(place),
        }
    }
    Err("is no name of a file, or a link that leads nowhere".into())
}

fn open(path: PathBuf, render: Renderer) -> Result<Pending, String> {
    let (file, part) = match fs::metadata(&path) {
        Ok(found) if found.is_dir() => return Err("is a folder: give the name of a file".into()),
        Ok(found) if is_output(&found) || !found.is_file() || path.starts_with("/proc") => {
            (in_place(&path, &found)?, None)
        }
        _ => {
            let mut part = path.as_os_str().to_owned();
            part.push(format!(".{}.part", std::process::id()));
            let part = PathBuf::from(part);
            (File::create(&part).map_err(|error| unwritable(&error))?, Some(part))
        }
    };
    Ok(Pending { file, part, path, render })
}

/// Opens what is no plain file, to write to it as it is.
fn in_place(path: &Path, found: &Metadata) -> Result<File, String> {
    if is_output(found) {
        // Its own place in the file, behind which the report goes on.
        let output = std::io::stdout().as_fd().try_clone_to_owned();
        return output.map(File::from).map_err(|error| unwritable(&error));
    }
    if !found.file_type().is_fifo() {
        return File::options().write(true).open(path).map_err(|error| unwritable(&error));
    }
    // To wait for a reader in `open` could not be interrupted.
    let end = Instant::now() + READER_LIMIT;
    let nonblocking = OFlags::NONBLOCK.bits() as i32;
    loop {
        match File::options().write(true).custom_flags(nonblocking).open(path) {
            Ok(file) => {
                rustix::fs::fcntl_setfl(&file, OFlags::empty()).map_err(|error| unwritable(&error.into()))?;
                return Ok(file);
            }
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => {
                if Instant::now() >= end {
                    return Err("is a FIFO from which nobody reads: start the reader first".into());
                }
                std::thread::sleep(POLL);
            }
            Err(error) => return Err(unwritable(&error)),
        }
    }
}

/// Whether it is what the standard output is.
fn is_output(found: &Metadata) -> bool {
    let output = fs::metadata("/proc/self/fd/1");
    output.is_ok_and(|output| (output.dev(), output.ino()) == (found.dev(), found.ino()))
}

fn unwritable(error: &std::io::Error) -> String {
    format!("cannot be written: {error}")
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(part) = &self.part {
            // After a rename it is no longer there.
            let _ = fs::remove_file(part);
        }
    }
}

//! The files that a run writes. They are opened before it begins, so that a folder
//! that does not exist is known before and not after an hour of load, and they take
//! their names only when they are whole.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::cli::Cli;
use crate::outcome::Report;
use crate::report;

/// Makes the text of a file.
type Renderer = fn(&Report) -> String;

/// A file that has not got its name yet.
struct Pending {
    file: File,
    /// What it is called while it is written.
    part: PathBuf,
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
            if let Some(path) = path {
                files.pending.push(open(path, render).map_err(|why| format!("{option}: {}: {why}", path.display()))?);
            }
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
            let named = written.and_then(|()| fs::rename(&pending.part, &pending.path));
            named.map_err(|error| format!("{}: cannot be written: {error}", pending.path.display()))?;
        }
        Ok(())
    }
}

fn open(path: &Path, render: Renderer) -> Result<Pending, String> {
    if path.is_dir() {
        return Err("is a folder: give the name of a file".into());
    }
    let mut part = path.as_os_str().to_owned();
    part.push(format!(".{}.part", std::process::id()));
    let part = PathBuf::from(part);
    let file = File::create(&part).map_err(|error| format!("cannot be written: {error}"))?;
    Ok(Pending { file, part, path: path.to_owned(), render })
}

impl Drop for Pending {
    fn drop(&mut self) {
        // After a rename it is no longer there.
        let _ = fs::remove_file(&self.part);
    }
}

//! The passwords, from the file that the configuration names. They are in no other place: not in the configuration,
//! not on the command line, not in a log line.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::config::{Config, ConfigError};
use crate::base::Passwords;

/// The permission by which everybody on the host reads a file.
const READ_BY_OTHERS: u32 = 0o004;

impl Config {
    /// Reads the passwords, if any are asked for. What the operator should know of the file becomes one of the `notes`.
    ///
    /// # Errors
    /// If the file cannot be read, or what is in it are no passwords.
    pub fn passwords(&self, notes: &mut Vec<String>) -> Result<Option<Passwords>, ConfigError> {
        const KEY: &str = "auth.password_file";
        let name = &self.auth.password_file;
        if name.is_empty() {
            return Ok(None);
        }
        let (text, mode) = read(Path::new(name)).map_err(|error| {
            let remedy = "name a file with a password in each line that the server's user may read";
            self.refuse(KEY, format!("{name} cannot be read: {error}: {remedy}"))
        })?;
        if text.len() > Passwords::TEXT_BYTES_MAX {
            let reason =
                format!("{name} has more than {} bytes: it is no list of passwords", Passwords::TEXT_BYTES_MAX);
            return Err(self.refuse(KEY, reason));
        }
        let passwords = Passwords::parse(&text).map_err(|error| self.refuse(KEY, format!("{name}: {error}")))?;
        if mode & READ_BY_OTHERS != 0 {
            notes.push(format!("{KEY}: everybody on this host may read {name}: `chmod 600 {name}` ends that"));
        }
        Ok(Some(passwords))
    }
}

/// What is in a file, as far as it can be passwords, and its permissions.
fn read(path: &Path) -> io::Result<(Vec<u8>, u32)> {
    let file = File::open(path)?;
    let mode = file.metadata()?.permissions().mode();
    let mut text = Vec::new();
    file.take(Passwords::TEXT_BYTES_MAX as u64 + 1).read_to_end(&mut text)?;
    Ok((text, mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of a file with such a text and such permissions, and the notes.
    fn load(name: &str, text: &[u8], mode: u32) -> (Result<Option<Passwords>, String>, Vec<String>) {
        let path = std::env::temp_dir().join(format!("ringfence-passwords-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let config = Config::from_text("t.toml", &format!("[auth]\npassword_file = {:?}", path)).unwrap();
        let mut notes = Vec::new();
        let passwords = config.passwords(&mut notes).map_err(|error| error.to_string());
        std::fs::remove_file(&path).unwrap();
        (passwords, notes)
    }

    #[test]
    fn a_file_holds_the_passwords() {
        let (passwords, notes) = load("good", b"old\r\nnew\n", 0o600);
        let passwords = passwords.unwrap().unwrap();
        assert!(passwords.accept(b"old") && passwords.accept(b"new") && !passwords.accept(b"old\r\nnew"));
        assert_eq!(notes, Vec::<String>::new());
        let (passwords, notes) = load("open", b"secret", 0o644);
        assert!(passwords.is_ok() && notes[0].contains("chmod 600") && !notes[0].contains("secret"), "{notes:?}");
        assert!(Config::default().passwords(&mut Vec::new()).unwrap().is_none());
    }

    #[test]
    fn what_is_wrong_is_told_with_the_file_and_the_remedy_and_without_the_password() {
        for (name, text, words) in [
            ("empty", &b"\n\n"[..], "there is no password in it"),
            ("space", b"secret \n", "line 1 begins or ends with a space"),
            ("large", &[b'\n'; (64 << 10) + 1], "it is no list of passwords"),
        ] {
            let error = load(name, text, 0o600).0.unwrap_err();
            assert!(error.starts_with("t.toml:2: `auth.password_file`: /"), "{error}");
            assert!(error.contains(name) && error.contains(words) && !error.contains("secret"), "{error}");
        }
        let config = Config::from_text("t.toml", "[auth]\npassword_file = \"/nowhere/at/all\"").unwrap();
        let error = config.passwords(&mut Vec::new()).unwrap_err().to_string();
        assert!(error.contains("/nowhere/at/all cannot be read: No such file"), "{error}");
        let config = Config::from_text("t.toml", "[auth]\npassword_file = \"/\"").unwrap();
        assert!(config.passwords(&mut Vec::new()).is_err());
    }
}

//! Log lines to standard error, for people or for collectors. Called once by
//! `main`, before any thread starts.

use std::io::IsTerminal;

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::config::values::LogFormat;
use super::config::{ConfigError, Log};

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Starts logging as `log` says. Lines are coloured only on a terminal.
///
/// # Errors
/// If the level is no filter, or logging was started before.
pub fn init(log: &Log) -> Result<(), ConfigError> {
    let refuse = |reason| ConfigError::Value { place: "logging".to_string(), key: "log.level".to_string(), reason };
    let subscriber = subscriber(log, std::io::stderr, std::io::stderr().is_terminal()).map_err(refuse)?;
    tracing::subscriber::set_global_default(subscriber).map_err(|e| refuse(e.to_string()))
}

/// Whether `level` is a filter that means something. A lone word must be a level:
/// the filter's own grammar takes `inof` for the name of a module.
///
/// # Errors
/// What is wrong with it.
pub(super) fn check_filter(level: &str) -> Result<(), String> {
    let remedy = "write a level (off, error, warn, info, debug, trace) or filters such as \"info,ringfence::io=debug\"";
    let lone = level.split(',').map(str::trim).find(|word| {
        let is_level = LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word));
        !is_level && !word.contains(['=', '[', ']', '{', '}'])
    });
    if let Some(word) = lone {
        return Err(format!("`{word}` is not a level: {remedy}"));
    }
    EnvFilter::try_new(level).map(drop).map_err(|e| format!("`{level}` is not a filter ({e}): {remedy}"))
}

fn subscriber<W>(log: &Log, writer: W, colour: bool) -> Result<Box<dyn Subscriber + Send + Sync>, String>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    check_filter(&log.level)?;
    let filter = EnvFilter::try_new(&log.level).map_err(|e| e.to_string())?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    Ok(match log.format {
        LogFormat::Human => Box::new(lines.with_ansi(colour).compact().finish()),
        LogFormat::Json => Box::new(lines.with_ansi(false).json().flatten_event(true).finish()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    /// Keeps what was logged.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: &str, format: LogFormat) -> String {
        let kept = Kept::default();
        let writer = kept.clone();
        let log = Log { level: level.to_string(), format };
        let subscriber = subscriber(&log, move || writer.clone(), false).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(cores = 4, "started");
            tracing::debug!("details");
        });
        String::from_utf8(kept.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn lines_for_people_have_no_colour_codes_off_a_terminal() {
        let text = logged("info", LogFormat::Human);
        assert!(text.contains("INFO") && text.contains("started cores=4"), "{text}");
        assert!(!text.contains('\u{1b}') && !text.contains("details"), "{text}");
        assert_eq!(text.lines().count(), 1);
        assert_eq!(logged("debug", LogFormat::Human).lines().count(), 2);
        assert_eq!(logged("off", LogFormat::Human), "");
    }

    #[test]
    fn lines_for_collectors_are_objects() {
        let text = logged("info", LogFormat::Json);
        assert!(text.starts_with('{') && text.trim_end().ends_with('}'), "{text}");
        assert!(text.contains("\"message\":\"started\"") && text.contains("\"cores\":4"), "{text}");
    }

    #[test]
    fn a_filter_that_means_nothing_is_refused() {
        for good in ["info", "WARN", "off", "info,ringfence::io=debug", "ringfence[span]=trace"] {
            assert_eq!(check_filter(good), Ok(()), "{good}");
        }
        for bad in ["", "inof", "info,inof", "ringfence=loud"] {
            assert!(check_filter(bad).unwrap_err().contains("write a level"), "{bad}");
        }
    }
}

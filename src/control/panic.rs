//! What a panic does: it ends the process. A core that panics would leave its keys
//! unreachable while the others go on as if nothing had happened. Called once by `main`.

/// From now on a panic on any thread is reported as usual and then ends the process.
pub fn stop_the_process() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        eprintln!("ringfence: stopped by the panic above: please report it with these lines");
        std::process::abort();
    }));
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    const CHILD: &str = "RINGFENCE_TEST_PANICS";
    const SIGABRT: i32 = 6;

    /// The test runs itself once more in a process that is meant to die.
    #[test]
    fn a_panic_on_any_thread_ends_the_process_with_a_message() {
        if std::env::var_os(CHILD).is_some() {
            super::stop_the_process();
            let _ = std::thread::spawn(|| panic!("a core's own words")).join();
            // Reached only if the panic ended nothing but its thread.
            std::process::exit(0);
        }
        let name = "control::panic::tests::a_panic_on_any_thread_ends_the_process_with_a_message";
        let program = std::env::current_exe().expect("a test knows its program");
        let child = Command::new(program).args(["--exact", name, "--nocapture"]).env(CHILD, "1").output();
        let child = child.expect("the test starts itself");
        let said = String::from_utf8_lossy(&child.stderr);
        assert_eq!(child.status.signal(), Some(SIGABRT), "{said}");
        assert!(said.contains("a core's own words") && said.contains("stopped by the panic above"), "{said}");
    }
}

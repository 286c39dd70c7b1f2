//! What a command says on standard error: notes, steps where `-v` asks for them, and on a terminal what takes longer than a second.
//!
//! There is one standard error, and what waits is deep below (xl, a reset, a guest), so it is found without being passed on: [`still_waiting`].

use std::cell::{Cell, RefCell};
use std::io::{IsTerminal as _, Write};
use std::rc::Rc;
use std::time::{Duration, Instant};

use ::dom0::{Console, say};

/// Steps that are over within this are not shown.
const SHORT: Duration = Duration::from_secs(1);
/// Characters of a step that are shown, so that the line has room on any terminal: only a single one is overwritten.
const WIDTH: usize = 64;
/// Back to the beginning of the line, and erase it (ECMA-48, "EL").
const ERASE: &str = "\r\x1b[K";

thread_local! {
    static CURRENT: RefCell<Option<Rc<Terminal>>> = const { RefCell::new(None) };
}

/// Standard error of one command.
pub(crate) struct Terminal {
    is_verbose: bool,
    is_quiet: bool,
    /// The terminal; none where standard error is something else.
    screen: Option<RefCell<Box<dyn Write>>>,
    /// How long a step takes before it is shown.
    after: Duration,
    /// The step under way, and when it began.
    step: RefCell<Option<(String, Instant)>>,
    is_shown: Cell<bool>,
    notes: RefCell<Vec<String>>,
}

impl Terminal {
    /// Standard error; `verbose` has it show steps, `quiet` no notes.
    pub(crate) fn standard_error(is_verbose: bool, is_quiet: bool) -> Rc<Self> {
        let stderr = std::io::stderr();
        let screen: Option<Box<dyn Write>> =
            if stderr.is_terminal() && !is_quiet { Some(Box::new(stderr)) } else { None };
        Self::new(is_verbose, is_quiet, screen, SHORT)
    }

    fn new(is_verbose: bool, is_quiet: bool, screen: Option<Box<dyn Write>>, after: Duration) -> Rc<Self> {
        let terminal = Rc::new(Self {
            is_verbose,
            is_quiet,
            screen: screen.map(RefCell::new),
            after,
            step: RefCell::default(),
            is_shown: Cell::default(),
            notes: RefCell::default(),
        });
        CURRENT.set(Some(terminal.clone()));
        terminal
    }

    /// The notes so far.
    pub(crate) fn notes(&self) -> Vec<String> {
        self.notes.borrow().clone()
    }

    fn waiting(&self) {
        let step = self.step.borrow();
        let (Some(screen), Some((text, began))) = (&self.screen, &*step) else { return };
        let passed = began.elapsed();
        if passed < self.after {
            return;
        }
        let text: String = match text.char_indices().nth(WIDTH) {
            Some((end, _)) => text.get(..end).unwrap_or_default().to_owned() + "...",
            None => text.clone(),
        };
        // Who does not look misses nothing.
        let mut screen = screen.borrow_mut();
        let _ = write!(screen, "{ERASE}{text} ({} s)", passed.as_secs()).and_then(|()| screen.flush());
        self.is_shown.set(true);
    }

    fn erase(&self) {
        if let Some(screen) = &self.screen
            && self.is_shown.replace(false)
        {
            let mut screen = screen.borrow_mut();
            let _ = screen.write_all(ERASE.as_bytes()).and_then(|()| screen.flush());
        }
    }
}

/// A terminal as the console of a host.
pub(crate) struct OnTerminal(pub(crate) Rc<Terminal>);

impl Console for OnTerminal {
    fn note(&self, text: &str) {
        self.0.notes.borrow_mut().push(text.to_owned());
        if !self.0.is_quiet {
            self.0.erase();
            say(format_args!("pcidom: note: {text}"));
        }
    }

    fn trace(&self, at: Duration, text: &str) {
        if self.0.is_verbose {
            self.0.erase();
            say(format_args!("{:>7} ms  {text}", at.as_millis()));
        }
    }
}

/// A step begins.
pub(crate) fn begin(step: impl FnOnce() -> String) {
    with_current(|terminal| {
        if terminal.screen.is_some() {
            terminal.step.replace(Some((step(), Instant::now())));
        }
    });
}

/// Whatever waits says so about once a second.
pub(crate) fn still_waiting() {
    with_current(Terminal::waiting);
}

/// Nothing is shown any more of what takes long: the command is at its end, or the terminal is somebody else's now.
pub(crate) fn release() {
    with_current(|terminal| {
        terminal.erase();
        terminal.step.replace(None);
    });
    CURRENT.set(None);
}

fn with_current(act: impl FnOnce(&Terminal)) {
    let current = CURRENT.with_borrow(Clone::clone);
    if let Some(terminal) = current {
        act(&terminal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Screen(Rc<RefCell<Vec<u8>>>);

    impl Write for Screen {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.borrow_mut().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn shown(after: Duration) -> (Rc<Terminal>, impl Fn() -> String) {
        let screen = Screen::default();
        let terminal = Terminal::new(false, false, Some(Box::new(screen.clone())), after);
        (terminal, move || String::from_utf8(screen.0.borrow().clone()).unwrap())
    }

    #[test]
    fn what_takes_long_is_shown_on_one_line_that_is_erased() {
        let (terminal, text) = shown(Duration::ZERO);
        still_waiting();
        assert_eq!(text(), "", "no step yet");
        begin(|| "wait until web uses 0000:00:05.0".to_owned());
        still_waiting();
        assert_eq!(text(), "\r\x1b[Kwait until web uses 0000:00:05.0 (0 s)");
        OnTerminal(terminal).note("something");
        assert!(text().ends_with("(0 s)\r\x1b[K"));
        let length = text().len();
        release();
        still_waiting();
        assert_eq!(text().len(), length, "there was nothing to erase, and nothing comes after it");
    }

    #[test]
    fn a_long_step_is_cut_and_a_short_one_not_shown() {
        let (_terminal, text) = shown(Duration::ZERO);
        begin(|| "€".repeat(500));
        still_waiting();
        assert_eq!(text().chars().filter(|letter| *letter == '€').count(), WIDTH);
        let (_terminal, text) = shown(SHORT);
        begin(|| "read a byte".to_owned());
        still_waiting();
        assert_eq!(text(), "");
    }

    #[test]
    fn nothing_is_drawn_where_standard_error_is_no_terminal() {
        let terminal = Terminal::new(false, true, None, Duration::ZERO);
        begin(|| panic!("nobody reads it"));
        still_waiting();
        OnTerminal(terminal.clone()).note("kept for who asks");
        assert_eq!(terminal.notes(), ["kept for who asks"]);
    }

    #[test]
    fn commands_that_wait_for_a_guest_show_it() {
        use crate::fake::{EDU, Machine};
        let machine = Machine::new();
        machine.with(|world| world.guest.silent = true);
        let (_terminal, text) = shown(Duration::ZERO);
        crate::tests::attach_to_web(&machine, &[EDU]).unwrap_err();
        assert!(text().contains(&format!("wait until web (domain 5) uses {EDU} (")), "{}", text());
    }
}

//! Single keys from the terminal, whose mode is put back however the demo ends.

use std::io::{Read, stdin};

use anyhow::{Context, Result};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use tokio::sync::mpsc::{self, error::TrySendError};

/// Keys typed ahead of the demo; more are dropped.
const KEYS_MAX: usize = 16;

/// Delivers keys as they are pressed, without echo. Ctrl-C stays a signal.
pub struct Keys {
    before: Termios,
    keys: mpsc::Receiver<u8>,
}

impl Keys {
    /// Standard input must be a terminal.
    pub fn listen() -> Result<Keys> {
        let before = tcgetattr(stdin()).context("reading the terminal's mode")?;
        let mut mode = before.clone();
        mode.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO);
        tcsetattr(stdin(), SetArg::TCSANOW, &mode).context("setting the terminal's mode")?;
        let (sender, keys) = mpsc::channel(KEYS_MAX);
        // A thread, because a read from a terminal cannot be called off; it ends with the process.
        std::thread::spawn(move || {
            for key in stdin().lock().bytes().map_while(Result::ok) {
                if let Err(TrySendError::Closed(_)) = sender.try_send(key) {
                    return;
                }
            }
        });
        Ok(Keys { before, keys })
    }

    /// Waits for ever when the terminal has hung up.
    pub async fn next(&mut self) -> u8 {
        match self.keys.recv().await {
            Some(key) => key,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        if let Err(error) = tcsetattr(stdin(), SetArg::TCSANOW, &self.before) {
            eprintln!("pgvane demo: the terminal's mode could not be restored ({error}); `stty sane` does it");
        }
    }
}

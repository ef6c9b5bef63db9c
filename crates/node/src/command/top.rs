//! `top`: the running node on one screen, looked at anew every second.

mod desk;
mod page;
mod view;

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::bail;
use clap::Args;
use ratatui::{
    DefaultTerminal,
    buffer::Buffer,
    crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
    layout::Rect,
    widgets::Widget as _,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use self::desk::{Desk, Look};
use crate::admin::{AdminAnswer, AdminError, AdminRequest, fetch, usual_socket};

/// The picture that `--once` prints: as wide as a terminal is by custom, and as high as everything needs.
const WIDTH: u16 = 100;

/// Shows the running node.
#[derive(Args, Clone, Copy, Debug)]
pub struct TopCommand {
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = clap::value_parser!(u64).range(1..=60))]
    interval: u64,
    /// Look twice, print one picture as text, and end
    #[arg(long)]
    once: bool,
}

impl TopCommand {
    /// Does it, until whoever looks has seen enough.
    ///
    /// # Errors
    /// Where no node answers at the first look, or there is no terminal to draw on.
    pub async fn run(self, socket: Option<&Path>) -> anyhow::Result<()> {
        let socket = socket.map(Path::to_owned).or_else(usual_socket).ok_or(AdminError::NotSet)?;
        let every = Duration::from_secs(self.interval);
        let mut desk = Desk::new(look(&socket).await?);
        if self.once {
            sleep(every).await;
            desk.sees(look(&socket).await?);
            return Ok(writeln!(io::stdout(), "{}", picture(&desk))?);
        }
        if !(io::stdout().is_terminal() && io::stdin().is_terminal()) {
            bail!("top draws on a terminal, and this is none: with --once it prints one picture as text");
        }
        // What panics meanwhile leaves the terminal as it was, too: the library sees to that.
        let mut terminal = ratatui::try_init()?;
        let done = watch(&mut terminal, desk, (&socket, every)).await;
        ratatui::try_restore()?;
        done
    }
}

/// What the node says of itself now.
async fn look(socket: &Path) -> Result<Look, AdminError> {
    let (mut status, mut sessions, mut metrics) = (None, Vec::new(), String::new());
    for request in [AdminRequest::Status, AdminRequest::Sessions, AdminRequest::Metrics] {
        match fetch(socket, request).await? {
            AdminAnswer::Status(said) => status = Some(said),
            AdminAnswer::Sessions(said) => sessions = said,
            AdminAnswer::Metrics(said) => metrics = said,
            AdminAnswer::Refused { message } => return Err(AdminError::Refused(message)),
            AdminAnswer::Usage(_) | AdminAnswer::Draining { .. } | AdminAnswer::Reloaded(_) => {
                return Err(AdminError::Unreadable);
            }
        }
    }
    let status = status.ok_or(AdminError::Unreadable)?;
    Ok(Look {
        at: Instant::now(),
        status,
        sessions,
        page: metrics.parse().map_err(|_| AdminError::Unreadable)?,
    })
}

/// Looks, and draws, until a key or a signal ends it.
async fn watch(
    terminal: &mut DefaultTerminal,
    mut desk: Desk,
    (socket, every): (&Path, Duration),
) -> anyhow::Result<()> {
    let (mut keys, mut looks) = (keys(), looks(socket.to_owned(), every));
    // Whoever ends it by a signal gets the terminal back as it was, too.
    let [mut terminate, mut interrupt, mut hangup] =
        [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?, signal(SignalKind::hangup())?];
    loop {
        terminal.draw(|frame| frame.render_widget(&desk, frame.area()))?;
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hangup.recv() => return Ok(()),
            Some(look) = looks.recv() => match look {
                Ok(look) => desk.sees(look),
                // A node that starts again is there again in a moment.
                Err(error) => desk.misses(error.to_string()),
            },
            event = keys.recv() => match event.map(|event| meaning(&event)) {
                // Without a terminal nobody looks.
                None | Some(Pressed::End) => return Ok(()),
                Some(Pressed::Order) => desk.orders(),
                Some(Pressed::Move(rows)) => desk.scrolls(rows),
                Some(Pressed::Nothing) => {}
            },
        }
    }
}

/// A look every so often, in a task of its own: a node that hangs keeps no key from being heard.
fn looks(socket: PathBuf, every: Duration) -> mpsc::Receiver<Result<Look, AdminError>> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            ticks.tick().await;
            if sender.send(look(&socket).await).await.is_err() {
                return;
            }
        }
    });
    receiver
}

/// What is typed. The thread that waits for it ends with the process: nothing else can wake it.
fn keys() -> mpsc::Receiver<Event> {
    let (sender, receiver) = mpsc::channel(8);
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if sender.blocking_send(event).is_err() {
                return;
            }
        }
    });
    receiver
}

/// What a key asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Pressed {
    End,
    /// The sessions in another order.
    Order,
    /// The sessions so many rows further down.
    Move(i32),
    /// Nothing but to be drawn anew, in another size say.
    Nothing,
}

/// A screen of sessions, more or less.
const PAGE: i32 = 10;

fn meaning(event: &Event) -> Pressed {
    let Event::Key(KeyEvent { code, modifiers, kind: KeyEventKind::Press, .. }) = event else {
        return Pressed::Nothing;
    };
    if let KeyCode::Char(letter) = code {
        return match letter {
            'c' if modifiers.contains(KeyModifiers::CONTROL) => Pressed::End,
            'q' => Pressed::End,
            's' => Pressed::Order,
            'j' => Pressed::Move(1),
            'k' => Pressed::Move(-1),
            _ => Pressed::Nothing,
        };
    }
    let moves = [
        (KeyCode::Down, 1),
        (KeyCode::Up, -1),
        (KeyCode::PageDown, PAGE),
        (KeyCode::PageUp, -PAGE),
        (KeyCode::Home, i32::MIN),
    ];
    let rows = moves.into_iter().find(|(key, _)| key == code);
    match rows {
        Some((_, rows)) => Pressed::Move(rows),
        None if *code == KeyCode::Esc => Pressed::End,
        None => Pressed::Nothing,
    }
}

/// The screen as text, as high as it needs to be.
fn picture(desk: &Desk) -> String {
    let area = Rect::new(0, 0, WIDTH, desk.height());
    let mut buffer = Buffer::empty(area);
    desk.render(area, &mut buffer);
    let line = |y| {
        let cells = (0..WIDTH).filter_map(|x| buffer.cell((x, y)));
        cells.map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned()
    };
    (0..area.height).map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(code: KeyCode, modifiers: KeyModifiers) -> Event {
        Event::Key(KeyEvent::new(code, modifiers))
    }

    #[test]
    fn q_escape_and_ctrl_c_end_it_and_arrows_move() {
        let plain = |code| meaning(&key(code, KeyModifiers::NONE));
        for end in [
            plain(KeyCode::Char('q')),
            plain(KeyCode::Esc),
            meaning(&key(KeyCode::Char('c'), KeyModifiers::CONTROL)),
        ] {
            assert_eq!(end, Pressed::End);
        }
        assert_eq!(plain(KeyCode::Char('c')), Pressed::Nothing);
        assert_eq!(plain(KeyCode::Down), Pressed::Move(1));
        assert_eq!(plain(KeyCode::Home), Pressed::Move(i32::MIN));
        assert_eq!(plain(KeyCode::Char('s')), Pressed::Order);
        assert_eq!(meaning(&Event::Resize(1, 1)), Pressed::Nothing);
    }
}

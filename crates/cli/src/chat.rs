//! `fabstir chat`: a conversation in one session.

use std::{
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};

use fabstir_client::{Error, Turn};
use rustyline::{Editor, error::ReadlineError, history::MemHistory};
use tokio::sync::mpsc;

use crate::{
    args::Chat,
    ask::judge,
    connect::{Client, Prepared, turn},
    failure::{Exit, Failure, complain, printable},
    tell::{How, TellError, Words, tell},
};

const HELP: &str = "\
/quit, Ctrl-D  leave; the node forgets the conversation a minute later, or as its operator has set
Ctrl-C         stop the answer
/help          this
";

pub(crate) async fn run(chat: Chat) -> Result<Exit, Failure> {
    let prepared = Prepared::from(&chat.connection).await?;
    let Some(mut client) = prepared.open().await? else { return Ok(Exit::Interrupted) };
    let mut lines = Lines::start();
    let mut conversation = Vec::new();
    let exit = loop {
        let line = match lines.next(&mut client).await {
            Typed::Line(line) => line,
            Typed::End => break Exit::Ok,
            Typed::Interrupted => break Exit::Interrupted,
            Typed::Failed(why) => return Err(Failure::new(Exit::Usage, why)),
        };
        match line.trim() {
            "" => {}
            "/quit" => break Exit::Ok,
            "/help" => io::stdout().lock().write_all(HELP.as_bytes())?,
            words => {
                let how = ask(&chat, &mut client, &mut conversation, words).await?;
                match how {
                    Some(How::Unread) => break Exit::Ok,
                    Some(How::Interrupted) if !lines.terminal => break Exit::Interrupted,
                    Some(How::Interrupted | How::Ended(_)) | None => {}
                }
            }
        }
    };
    client.close().await;
    Ok(exit)
}

/// One turn; `None` where the node refused it, upon which the conversation goes on.
async fn ask(
    chat: &Chat,
    client: &mut Client,
    conversation: &mut Vec<Turn>,
    line: &str,
) -> Result<Option<How>, Failure> {
    // The node keeps the conversation, unless it begins with something that only we know.
    let request = if chat.asked.system.is_some() {
        conversation.push(turn("user", line));
        chat.asked.conversation(conversation)
    } else {
        chat.asked.prompt(line)
    };
    let (mut words, mut said) = (Words::to_stdout(), String::new());
    let told = tell(client, &request, |text| {
        said.push_str(text);
        words.show(text)
    })
    .await;
    words.end_if_open();
    let told = match told {
        Ok(told) => told,
        Err(TellError::Client(refused @ Error::Refused { .. })) if client.is_open() => {
            complain(&printable(&refused.to_string()));
            conversation.pop();
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    if chat.asked.system.is_some() {
        conversation.push(turn("assistant", &said));
    }
    if let How::Ended(end) = &told.how
        && let Err(failure) = judge(end)
    {
        failure.report();
    }
    Ok(Some(told.how))
}

enum Typed {
    Line(String),
    Interrupted,
    End,
    Failed(String),
}

/// Lines from a person or a file, read on a thread of their own so that the connection stays alive meanwhile.
struct Lines {
    terminal: bool,
    wanted: SyncSender<()>,
    typed: mpsc::Receiver<Typed>,
}

impl Lines {
    fn start() -> Self {
        let terminal = io::stdin().is_terminal();
        let (wanted, wanting) = sync_channel(1);
        let (sender, typed) = mpsc::channel(1);
        thread::spawn(move || {
            if terminal {
                read_terminal(&wanting, &sender);
            } else {
                read_stdin(&wanting, &sender);
            }
        });
        Self { terminal, wanted, typed }
    }

    async fn next(&mut self, client: &mut Client) -> Typed {
        // Where the thread has ended, the channel below says so.
        let _ = self.wanted.send(());
        loop {
            tokio::select! {
                typed = self.typed.recv() => return typed.unwrap_or(Typed::End),
                // A closed session is told of by the next question.
                () = client.idle(), if client.is_open() => {}
                _ = tokio::signal::ctrl_c(), if !self.terminal => return Typed::Interrupted,
            }
        }
    }
}

fn read_stdin(wanting: &Receiver<()>, sender: &mpsc::Sender<Typed>) {
    let mut lines = io::stdin().lock().lines();
    while let Ok(()) = wanting.recv() {
        let typed = match lines.next() {
            Some(Ok(line)) => Typed::Line(line),
            Some(Err(error)) => Typed::Failed(format!("cannot read the next line: {error}")),
            None => Typed::End,
        };
        if sender.blocking_send(typed).is_err() {
            return;
        }
    }
}

fn read_terminal(wanting: &Receiver<()>, sender: &mpsc::Sender<Typed>) {
    let config = rustyline::Config::default();
    let editor = Editor::<(), MemHistory>::with_history(config, MemHistory::new());
    let mut editor = match editor {
        Ok(editor) => editor,
        Err(error) => {
            // The receiver is gone only when the program ends.
            let _ = sender.blocking_send(Typed::Failed(format!("cannot use this terminal: {error}")));
            return;
        }
    };
    while let Ok(()) = wanting.recv() {
        let typed = match editor.readline("> ") {
            Ok(line) => {
                // History is a comfort: a line that it does not take is asked all the same.
                let _ = editor.add_history_entry(line.as_str());
                Typed::Line(line)
            }
            Err(ReadlineError::Interrupted) => Typed::Line(String::new()),
            Err(ReadlineError::Eof) => Typed::End,
            Err(error) => Typed::Failed(format!("cannot read the next line: {error}")),
        };
        if sender.blocking_send(typed).is_err() {
            return;
        }
    }
}

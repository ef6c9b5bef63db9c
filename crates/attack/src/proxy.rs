//! The proxy: a client connects to it, it connects to the node, and in between one thing is done.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinHandle, JoinSet},
    time::{sleep, timeout},
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, accept_async, connect_async, tungstenite::Error as SocketError,
};

use crate::{
    forgery::Impostor,
    step::{Act, Again, Byte, Edit, Keep, Source},
    tamper,
    wire::{Frame, Kind, Place, Recording, Seen, Way, find},
};

type Upstream = WebSocketStream<MaybeTlsStream<TcpStream>>;
type Downstream = WebSocketStream<TcpStream>;

/// How long the node may take to answer a frame that the attacker sends on a connection of its own.
const REPLY: Duration = Duration::from_millis(250);
/// How long connections get to end once the client is done.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Connections of one client that are carried.
const MOST_CONNECTIONS: usize = 12;
/// Frames that an attacker sends on one connection of its own.
const MOST_AGAIN: usize = 64;

/// What the proxy is to do.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Acts, each at its place. The first that fits is done.
    pub acts: Vec<(Place, Act)>,
    /// Another client's session with the same node.
    pub other: Arc<Recording>,
}

/// What was seen and done.
#[derive(Debug, Default)]
pub struct Log {
    /// Frames as their senders sent them.
    pub seen: Recording,
    /// How often each act of the plan was done.
    pub done: Vec<usize>,
    /// What the node said on connections of the attacker's where it should have opened nothing.
    pub replies: Vec<Frame>,
    connections: usize,
}

/// A proxy on a port of its own on loopback. Dropping it ends its connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    url: String,
    plan: Plan,
    log: Mutex<Log>,
    /// What the attacker does on connections of its own.
    errands: Mutex<Vec<JoinHandle<()>>>,
    /// Connections that are being carried.
    open: AtomicUsize,
}

impl Shared {
    fn log(&self) -> MutexGuard<'_, Log> {
        lock(&self.log)
    }

    fn count(&self, act: usize) {
        if let Some(done) = self.log().done.get_mut(act) {
            *done = done.saturating_add(1);
        }
    }
}

impl Proxy {
    /// Listens, and carries to the node at `url`.
    ///
    /// # Errors
    /// Where there is no port.
    pub async fn start(url: &str, plan: Plan) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let log = Log { done: vec![0; plan.acts.len()], ..Log::default() };
        let shared = Arc::new(Shared {
            url: url.to_owned(),
            plan,
            log: Mutex::new(log),
            errands: Mutex::default(),
            open: AtomicUsize::new(0),
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&shared))).abort_handle();
        Ok(Self { address, shared, task })
    }

    /// Where clients connect.
    pub fn url(&self) -> String {
        format!("ws://{}/v1/ws", self.address)
    }

    /// Does what was left for when the client is done.
    pub async fn finish(&self) {
        // What the client said last is still on its way.
        let over = async {
            while self.shared.open.load(Ordering::Relaxed) > 0 {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = timeout(LAST_WORDS, over).await;
        let errands = std::mem::take(&mut *lock(&self.shared.errands));
        for errand in errands {
            let _ = errand.await;
        }
        let afterwards = self.shared.plan.acts.iter().enumerate();
        for (number, (_, act)) in afterwards {
            if let Act::Afterwards(again) = act {
                elsewhere(&self.shared, *again).await;
                self.shared.count(number);
            }
        }
    }

    /// What was seen and done.
    pub fn into_log(self) -> Log {
        std::mem::take(&mut *self.shared.log())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut relays = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((socket, _)) = accepted else { continue };
                let number = {
                    let mut log = shared.log();
                    log.connections = log.connections.saturating_add(1);
                    log.connections.saturating_sub(1)
                };
                // A client that is cut off each time comes back each time: the node is not to suffer for it.
                if number >= MOST_CONNECTIONS {
                    continue;
                }
                shared.open.fetch_add(1, Ordering::Relaxed);
                let shared = Arc::clone(&shared);
                relays.spawn(async move {
                    let _ = relay(socket, number, Arc::clone(&shared)).await;
                    shared.open.fetch_sub(1, Ordering::Relaxed);
                });
            }
            Some(_) = relays.join_next() => {}
        }
    }
}

/// What happens to a frame.
enum Next {
    Send(Vec<(Way, Frame)>),
    /// Send, and close both sides.
    Close(Vec<(Way, Frame)>),
}

struct Relay {
    number: usize,
    shared: Arc<Shared>,
    counts: HashMap<(Way, Kind), usize>,
    /// Held back until the next frame in its direction is through.
    held: Vec<(usize, Way, Frame)>,
    /// To be sent again after so many frames in its direction.
    later: Vec<(usize, usize, Way, Frame)>,
    /// In the place of the next frame in its direction.
    over: Vec<(usize, Way, Frame)>,
    /// Frames of this kind are left out until another kind comes.
    rest: Option<(Way, Kind)>,
    impostor: Impostor,
    impersonating: bool,
}

async fn relay(socket: TcpStream, number: usize, shared: Arc<Shared>) -> Option<()> {
    let _ = socket.set_nodelay(true);
    let mut client: Downstream = accept_async(socket).await.ok()?;
    let (mut node, _): (Upstream, _) = connect_async(shared.url.as_str()).await.ok()?;
    let mut relay = Relay {
        number,
        shared,
        counts: HashMap::new(),
        held: Vec::new(),
        later: Vec::new(),
        over: Vec::new(),
        rest: None,
        impostor: Impostor::default(),
        impersonating: false,
    };
    loop {
        let (way, frame) = tokio::select! {
            heard = client.next() => (Way::ToNode, heard),
            heard = node.next() => (Way::ToClient, heard),
        };
        let frame = match frame {
            Some(Ok(message)) if message.is_close() => break,
            Some(Ok(message)) => Frame::of(message),
            Some(Err(_)) | None => break,
        };
        let Some(frame) = frame else { continue };
        let (frames, close) = match relay.pass(way, frame).await {
            Next::Send(frames) => (frames, false),
            Next::Close(frames) => (frames, true),
        };
        if relay.send(frames, &mut client, &mut node).await.is_err() || close {
            break;
        }
    }
    let _ = timeout(REPLY, client.close(None)).await;
    let _ = timeout(REPLY, node.close(None)).await;
    Some(())
}

impl Relay {
    async fn send(
        &mut self,
        frames: Vec<(Way, Frame)>,
        client: &mut Downstream,
        node: &mut Upstream,
    ) -> Result<(), SocketError> {
        for (way, frame) in frames {
            match way {
                Way::ToClient => client.send(frame.into()).await?,
                Way::ToNode if self.impersonating => {
                    for said in self.impostor.hear(&frame) {
                        client.send(said.into()).await?;
                    }
                }
                Way::ToNode => node.send(frame.into()).await?,
            }
        }
        Ok(())
    }

    fn place(&mut self, way: Way, kind: Kind) -> Place {
        let nth = self.counts.entry((way, kind)).or_insert(0);
        let place = Place { connection: self.number, way, kind, nth: *nth };
        *nth = nth.saturating_add(1);
        place
    }

    async fn pass(&mut self, way: Way, frame: Frame) -> Next {
        // What the real node says to somebody who talks to the impostor does not come through.
        if self.impersonating && way == Way::ToClient {
            return Next::Send(Vec::new());
        }
        let place = self.place(way, frame.kind());
        self.shared.log().seen.push(Seen { place, frame: frame.clone() });
        if let Some((rest, kind)) = self.rest.filter(|(rest, _)| *rest == way) {
            if kind == place.kind {
                return Next::Send(Vec::new());
            }
            self.rest = (rest != way).then_some((rest, kind));
        }
        // What waits for a frame in this direction is taken before the frame itself can be put aside.
        let behind = self.behind(way);
        if let Some(at) = self.over.iter().position(|(_, its, _)| *its == way) {
            let (number, way, over) = self.over.remove(at);
            self.shared.count(number);
            return Next::Send([vec![(way, over)], behind].concat());
        }
        let next = match self.planned(place) {
            Some((number, act)) => self.act(number, act, place, frame).await,
            None => Next::Send(vec![(way, frame)]),
        };
        match next {
            Next::Send(frames) => Next::Send([frames, behind].concat()),
            close @ Next::Close(_) => close,
        }
    }

    fn planned(&self, place: Place) -> Option<(usize, Act)> {
        let planned = self.shared.plan.acts.iter().enumerate().find(|(_, (at, act))| {
            let here = place.connection == at.connection
                || (*act == Act::CloseAlways && place.connection > at.connection);
            let left = matches!(act, Act::Afterwards(_));
            here && !left && Place { connection: at.connection, ..place } == *at
        });
        planned.map(|(number, (_, act))| (number, act.clone()))
    }

    /// What was kept back for after the next frame.
    fn behind(&mut self, way: Way) -> Vec<(Way, Frame)> {
        let mut frames = Vec::new();
        if let Some(at) = self.held.iter().position(|(_, its, _)| *its == way) {
            let (number, way, frame) = self.held.remove(at);
            self.shared.count(number);
            frames.push((way, frame));
        }
        let mut waiting = Vec::new();
        for (after, number, its, frame) in std::mem::take(&mut self.later) {
            if its != way {
                waiting.push((after, number, its, frame));
            } else if after <= 1 {
                self.shared.count(number);
                frames.push((its, frame));
            } else {
                waiting.push((after.saturating_sub(1), number, its, frame));
            }
        }
        self.later = waiting;
        frames
    }

    async fn act(&mut self, number: usize, act: Act, place: Place, frame: Frame) -> Next {
        let way = place.way;
        let whole = (way, frame.clone());
        let mut counted = true;
        let next = match act {
            Act::Pass | Act::Afterwards(_) => Next::Send(vec![whole]),
            Act::Twice => Next::Send(vec![whole.clone(), whole]),
            Act::Later(after) => {
                counted = false;
                self.later.push((after, number, way, frame));
                Next::Send(vec![whole])
            }
            Act::Swap => {
                counted = false;
                self.held.push((number, way, frame));
                Next::Send(Vec::new())
            }
            Act::Drop => Next::Send(Vec::new()),
            Act::DropRest => {
                self.rest = Some((way, place.kind));
                Next::Send(Vec::new())
            }
            Act::OverNext => {
                counted = false;
                self.over.push((number, way, frame));
                Next::Send(vec![whole])
            }
            Act::CloseBefore | Act::CloseAlways => Next::Close(Vec::new()),
            Act::CloseAfter => Next::Close(vec![whole]),
            Act::ReflectToo => Next::Send(vec![whole, (way.back(), frame)]),
            Act::ReflectInstead => Next::Send(vec![(way.back(), frame)]),
            Act::ReflectAs(kind) => {
                Next::Send(vec![(way.back(), tamper::edit(&frame, &frame, Edit::Type(kind)))])
            }
            Act::Before(words) => Next::Send(vec![(way, words), whole]),
            Act::Elsewhere(again) => {
                // Side by side: the attacker need not hold the client up.
                let shared = Arc::clone(&self.shared);
                let errand = tokio::spawn(async move { elsewhere(&shared, again).await });
                lock(&self.shared.errands).push(errand);
                Next::Send(vec![whole])
            }
            Act::First(again) => {
                elsewhere(&self.shared, again).await;
                Next::Send(vec![whole])
            }
            Act::Race => {
                // An answer to a frame that nobody has sent before says nothing bad.
                let _ = exchange(&self.shared.url, vec![frame]).await;
                Next::Send(vec![whole])
            }
            Act::Cut(_) | Act::Replace(_) | Act::Flip(..) | Act::CallIt(_) | Act::Forge(_) | Act::Edit(_) => {
                let changed = self.changed(&act, place, &frame);
                counted = changed.as_ref().is_some_and(|changed| *changed != frame);
                Next::Send(vec![(way, changed.unwrap_or(frame))])
            }
        };
        if counted {
            self.shared.count(number);
        }
        next
    }

    /// The frame as the attacker has it; `None` where what it takes is not there.
    fn changed(&mut self, act: &Act, place: Place, frame: &Frame) -> Option<Frame> {
        match act {
            Act::Cut(keep) => Some(frame.first(match keep {
                Keep::Bytes(bytes) => *bytes,
                Keep::AllBut(bytes) => frame.len().saturating_sub(*bytes),
                Keep::Half => frame.len() / 2,
            })),
            Act::Replace(Source::Other(of)) => find(&self.shared.plan.other, *of),
            Act::Replace(Source::Own(of)) => find(&self.shared.log().seen, *of),
            Act::Flip(byte, bit) => Some(frame.flipped(at(frame, *byte), *bit)),
            Act::CallIt(kind) => {
                let Frame::Binary(bytes) = frame else { return None };
                let renamed = bytes.iter().enumerate();
                let renamed = renamed.map(|(at, byte)| if at == 1 { *kind } else { *byte });
                Some(Frame::Binary(renamed.collect()))
            }
            Act::Forge(forgery) => {
                let (forged, ours) = self.impostor.forge(frame, *forgery);
                self.impersonating = ours;
                Some(forged)
            }
            Act::Edit(edit) => {
                let other = find(&self.shared.plan.other, place).unwrap_or_else(|| frame.clone());
                Some(tamper::edit(frame, &other, *edit))
            }
            Act::Pass
            | Act::Twice
            | Act::Later(_)
            | Act::Swap
            | Act::Drop
            | Act::DropRest
            | Act::OverNext
            | Act::CloseBefore
            | Act::CloseAfter
            | Act::CloseAlways
            | Act::ReflectToo
            | Act::ReflectInstead
            | Act::ReflectAs(_)
            | Act::Before(_)
            | Act::Elsewhere(_)
            | Act::First(_)
            | Act::Race
            | Act::Afterwards(_) => None,
        }
    }
}

/// The number of a byte.
fn at(frame: &Frame, byte: Byte) -> usize {
    match byte {
        Byte::Front(at) => at,
        Byte::Back(at) => frame.len().saturating_sub(at.saturating_add(1)),
        Byte::Middle => frame.len() / 2,
    }
}

/// Sends what was recorded on a connection of the attacker's; what the node says to it is kept.
async fn elsewhere(shared: &Shared, again: Again) {
    let replies = exchange(&shared.url, recorded(shared, again)).await;
    shared.log().replies.extend(replies.unwrap_or_default());
}

/// What a node says to frames that are sent one after the other, each once the node is silent.
async fn exchange(url: &str, frames: Vec<Frame>) -> Option<Vec<Frame>> {
    let (mut socket, _): (Upstream, _) = connect_async(url).await.ok()?;
    let mut replies = Vec::new();
    for frame in frames.into_iter().take(MOST_AGAIN) {
        if socket.send(frame.into()).await.is_err() {
            break;
        }
        while let Ok(Some(Ok(message))) = timeout(REPLY, socket.next()).await {
            let Some(reply) = Frame::of(message) else { continue };
            let kind = reply.kind();
            replies.push(reply);
            // What is due now is the next message of the handshake.
            if kind == Kind::M2 {
                break;
            }
        }
    }
    let _ = timeout(REPLY, socket.close(None)).await;
    Some(replies)
}

fn recorded(shared: &Shared, again: Again) -> Vec<Frame> {
    let log = shared.log();
    let of = |recording: &Recording, places: &[Place]| -> Vec<Frame> {
        places.iter().filter_map(|place| find(recording, *place)).collect()
    };
    match again {
        Again::Recorded(places) => of(&log.seen, places),
        Again::OfOther(places) => of(&shared.plan.other, places),
        Again::Everything(connection) => {
            let sent = log
                .seen
                .iter()
                .filter(|seen| seen.place.connection == connection && seen.place.way == Way::ToNode);
            sent.map(|seen| seen.frame.clone()).collect()
        }
        Again::Forged(place) => {
            let r1 = find(&log.seen, place);
            r1.and_then(|r1| tamper::with_forged_secret(&r1)).into_iter().collect()
        }
        Again::Spoilt(place, byte) => {
            let r1 = find(&log.seen, place);
            r1.map(|r1| r1.flipped(at(&r1, byte), 0)).into_iter().collect()
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

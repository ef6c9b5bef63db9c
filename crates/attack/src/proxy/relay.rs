//! One connection: frames come, the plan says what becomes of each.

use std::{collections::HashMap, sync::Arc};

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{accept_async, connect_async, tungstenite::Error as SocketError};

use super::{
    Downstream, REPLY, Shared, Upstream,
    elsewhere::{elsewhere, exchange},
    lock,
};
use crate::{
    forgery::Impostor,
    step::{Act, Byte, Edit, Keep, Source},
    tamper,
    wire::{Frame, Kind, Place, Seen, Way, find},
};

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

/// Carries one client until either side ends.
pub(super) async fn relay(socket: TcpStream, number: usize, shared: Arc<Shared>) -> Option<()> {
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
pub(super) fn at(frame: &Frame, byte: Byte) -> usize {
    match byte {
        Byte::Front(at) => at,
        Byte::Back(at) => frame.len().saturating_sub(at.saturating_add(1)),
        Byte::Middle => frame.len() / 2,
    }
}

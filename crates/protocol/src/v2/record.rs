//! Records: what travels once a handshake is through. Padding, counters, new keys.

use std::fmt;

use zeroize::{Zeroize, Zeroizing};

use super::{
    frame::{HEAD_LEN, Kind},
    noise::{CipherState, TAG_LEN},
};
use crate::seal::{OpenError, SealError};

/// Bytes before the body: type, flags, request, index, length.
pub const HEADER_LEN: usize = 12;
/// Most bytes of a record before it is sealed.
pub const MAX_PLAINTEXT: usize = 49_152;
/// Most bytes of a body.
pub const MAX_BODY: usize = MAX_PLAINTEXT - HEADER_LEN;
/// Records, and bytes of ciphertext, after which a direction's key is replaced.
pub const REKEY_RECORDS: u64 = 1000;
/// See [`REKEY_RECORDS`].
pub const REKEY_BYTES: u64 = 16 << 20;
const SMALLEST_BUCKET: usize = 32;
const LARGEST_DOUBLING: usize = 32_768;

/// What names a handshake: the first bytes of its hash. The first full handshake's names the session for its life.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Sid(pub(super) [u8; Self::LEN]);

impl Sid {
    /// Bytes of a name.
    pub const LEN: usize = 16;

    pub(super) fn of(hash: &[u8; 32]) -> Self {
        Self(hash.first_chunk().copied().unwrap_or_default())
    }
}

impl From<[u8; Self::LEN]> for Sid {
    fn from(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&const_hex::encode(self.0))
    }
}

impl fmt::Debug for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sid({self})")
    }
}

/// Which way a record goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Direction {
    /// From the client to the node.
    ToNode,
    /// From the node to the client.
    ToClient,
}

impl Direction {
    fn byte(self) -> u8 {
        match self {
            Self::ToNode => 0,
            Self::ToClient => 1,
        }
    }
}

/// How lengths are hidden.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Deserialize, serde::Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(transform = crate::schema::any_word))]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// Not at all: lengths and times are those of the tokens.
    Off,
    /// Lengths are rounded up to a few, and tokens put together on a tick. What is unknown here becomes this.
    #[default]
    #[serde(other)]
    Bucket,
}

impl Shape {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Bucket => "bucket",
        }
    }

    /// The length that a plaintext of `length` bytes is padded to.
    pub fn padded(self, length: usize) -> usize {
        match self {
            Self::Off => length,
            Self::Bucket if length > LARGEST_DOUBLING => MAX_PLAINTEXT.max(length),
            Self::Bucket => length.max(SMALLEST_BUCKET).next_power_of_two(),
        }
    }
}

/// What a record is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RecordType {
    /// A piece of a request.
    Request,
    /// Words of an answer.
    Text,
    /// Anything else of an answer, and its end: JSON.
    Event,
    /// Why there is no answer, or no more of it: JSON.
    Error,
    /// The node's first record.
    Welcome,
    /// The client wants no more of an answer.
    Cancel,
    /// The client has an answer up to an index.
    Ack,
    /// The end of the session.
    Goodbye,
}

impl RecordType {
    pub(crate) const ALL: [(u8, Self, Option<Direction>); 8] = [
        (1, Self::Request, Some(Direction::ToNode)),
        (2, Self::Text, Some(Direction::ToClient)),
        (3, Self::Event, Some(Direction::ToClient)),
        (4, Self::Error, Some(Direction::ToClient)),
        (5, Self::Welcome, Some(Direction::ToClient)),
        (6, Self::Cancel, Some(Direction::ToNode)),
        (7, Self::Ack, Some(Direction::ToNode)),
        (8, Self::Goodbye, None),
    ];

    fn byte(self) -> u8 {
        Self::ALL.into_iter().find_map(|(byte, kind, _)| (kind == self).then_some(byte)).unwrap_or(0)
    }

    fn read(byte: u8, direction: Direction) -> Option<Self> {
        Self::ALL.into_iter().find_map(|(known, kind, only)| {
            (known == byte && only.is_none_or(|only| only == direction)).then_some(kind)
        })
    }

    /// Whether it belongs to the connection and not to one request.
    fn is_control(self) -> bool {
        matches!(self, Self::Welcome | Self::Cancel | Self::Ack | Self::Goodbye)
    }
}

/// A record's flags.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Flags {
    /// The last record of its request or answer; under request 0, of the connection.
    pub last: bool,
    /// The event goes on in this answer's next record.
    pub more: bool,
}

impl Flags {
    /// Neither.
    pub const NONE: Self = Self { last: false, more: false };
    /// The last record.
    pub const LAST: Self = Self { last: true, more: false };
    /// More to come of this event.
    pub const MORE: Self = Self { last: false, more: true };

    fn byte(self) -> u8 {
        u8::from(self.last) | (u8::from(self.more) << 1)
    }

    fn read(byte: u8) -> Option<Self> {
        (byte & !3 == 0).then_some(Self { last: byte & 1 != 0, more: byte & 2 != 0 })
    }
}

/// A record. The body is wiped on drop, and `{:?}` shows only its length.
pub struct Record {
    /// What it is.
    pub kind: RecordType,
    /// Its flags.
    pub flags: Flags,
    /// The request that it belongs to; 0 is the connection.
    pub request: u32,
    /// Its place among the records of that request in its direction.
    pub index: u32,
    /// What it says.
    pub body: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("kind", &self.kind)
            .field("flags", &self.flags)
            .field("request", &self.request)
            .field("index", &self.index)
            .field("body", &format_args!("{} bytes", self.body.len()))
            .finish()
    }
}

/// Bytes that a record is bound to beside its place: the handshake, the direction and the head.
fn aad(sid: Sid, direction: Direction) -> [u8; Sid::LEN + 3] {
    let [magic, kind] = Kind::Record.head();
    let mut aad = [kind; Sid::LEN + 3];
    for (to, from) in aad.iter_mut().zip(sid.0.into_iter().chain([direction.byte(), magic])) {
        *to = from;
    }
    aad
}

/// When a direction's key is to be replaced. Both sides count alike.
#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    records: u64,
    bytes: u64,
}

impl Spent {
    /// Counts a record; true where the key has to be replaced after it.
    fn count(&mut self, ciphertext: usize, last: bool) -> bool {
        self.records = self.records.saturating_add(1);
        self.bytes = self.bytes.saturating_add(u64::try_from(ciphertext).unwrap_or(u64::MAX));
        let due = last || self.records >= REKEY_RECORDS || self.bytes >= REKEY_BYTES;
        if due {
            *self = Self::default();
        }
        due
    }
}

/// Seals the records of one direction, each with the next counter.
#[derive(Debug)]
pub struct Sealer {
    cipher: CipherState,
    aad: [u8; Sid::LEN + 3],
    shape: Shape,
    spent: Spent,
}

/// Opens the records of one direction, in their order and no other. What does not open ends it: its key is wiped.
#[derive(Debug)]
pub struct Opener {
    cipher: Option<CipherState>,
    aad: [u8; Sid::LEN + 3],
    direction: Direction,
    spent: Spent,
}

impl Sealer {
    pub(super) fn new(cipher: CipherState, sid: Sid, direction: Direction) -> Self {
        Self { cipher, aad: aad(sid, direction), shape: Shape::default(), spent: Spent::default() }
    }

    /// A sealer under a known key, for the vectors and for tests of the limits.
    #[doc(hidden)]
    pub fn at(key: &[u8; 32], n: u64, sid: Sid, direction: Direction) -> Self {
        Self::new(CipherState::at(key, n), sid, direction)
    }

    /// How lengths are hidden from now on.
    pub fn set_shape(&mut self, shape: Shape) {
        self.shape = shape;
    }

    /// The counter of the next record.
    pub fn counter(&self) -> u64 {
        self.cipher.counter()
    }

    /// The key, for the vectors.
    #[doc(hidden)]
    pub fn expose_key(&self) -> &[u8; 32] {
        self.cipher.expose_key()
    }

    /// The whole frame of a record.
    ///
    /// # Errors
    /// [`SealError`] for a body of more than [`MAX_BODY`] bytes, and after the last counter.
    pub fn seal(
        &mut self,
        kind: RecordType,
        flags: Flags,
        request: u32,
        index: u32,
        body: &[u8],
    ) -> Result<Vec<u8>, SealError> {
        let length = u16::try_from(body.len()).ok().filter(|_| body.len() <= MAX_BODY).ok_or(SealError)?;
        let plain = self.shape.padded(HEADER_LEN.saturating_add(body.len()));
        let mut frame = Vec::with_capacity(HEAD_LEN.saturating_add(plain).saturating_add(TAG_LEN));
        frame.extend_from_slice(&Kind::Record.head());
        frame.extend_from_slice(&[kind.byte(), flags.byte()]);
        frame.extend_from_slice(&request.to_be_bytes());
        frame.extend_from_slice(&index.to_be_bytes());
        frame.extend_from_slice(&length.to_be_bytes());
        frame.extend_from_slice(body);
        frame.resize(HEAD_LEN.saturating_add(plain), 0);
        let bytes = frame.get_mut(HEAD_LEN..).unwrap_or_default();
        let tag = match self.cipher.seal(&self.aad, bytes) {
            Ok(tag) => tag,
            Err(error) => {
                bytes.zeroize();
                return Err(error);
            }
        };
        frame.extend_from_slice(&tag);
        if self.spent.count(frame.len().saturating_sub(HEAD_LEN), flags.last) {
            self.cipher.rekey()?;
        }
        Ok(frame)
    }
}

impl Opener {
    pub(super) fn new(cipher: CipherState, sid: Sid, direction: Direction) -> Self {
        Self { cipher: Some(cipher), aad: aad(sid, direction), direction, spent: Spent::default() }
    }

    /// An opener under a known key, for the vectors and for tests of the limits.
    #[doc(hidden)]
    pub fn at(key: &[u8; 32], n: u64, sid: Sid, direction: Direction) -> Self {
        Self::new(CipherState::at(key, n), sid, direction)
    }

    /// The key, for the vectors and for tests that look for it in memory; `None` once something did not open.
    #[doc(hidden)]
    pub fn expose_key(&self) -> Option<&[u8; 32]> {
        self.cipher.as_ref().map(CipherState::expose_key)
    }

    /// Opens a frame as the record that is due.
    ///
    /// # Errors
    /// [`OpenError`], without a cause. From then on nothing opens.
    pub fn open(&mut self, frame: &[u8]) -> Result<Record, OpenError> {
        let mut cipher = self.cipher.take().ok_or(OpenError)?;
        let sealed = Kind::Record.expect(frame).map_err(|_| OpenError)?;
        if sealed.len() > MAX_PLAINTEXT.saturating_add(TAG_LEN) {
            return Err(OpenError);
        }
        let plaintext = cipher.open(&self.aad, sealed)?;
        let record = read(&plaintext, self.direction).ok_or(OpenError)?;
        if self.spent.count(sealed.len(), record.flags.last) {
            cipher.rekey().map_err(|_| OpenError)?;
        }
        self.cipher = Some(cipher);
        Ok(record)
    }
}

fn read(plaintext: &[u8], direction: Direction) -> Option<Record> {
    let ([kind, flags], rest) = plaintext.split_first_chunk::<2>()?;
    let (request, rest) = rest.split_first_chunk::<4>()?;
    let (index, rest) = rest.split_first_chunk::<4>()?;
    let (length, rest) = rest.split_first_chunk::<2>()?;
    let (body, padding) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
    let kind = RecordType::read(*kind, direction)?;
    let flags = Flags::read(*flags)?;
    let request = u32::from_be_bytes(*request);
    let padded = padding.iter().all(|byte| *byte == 0);
    // An error may be the connection's too. Only an event goes on in another record.
    let placed = if kind.is_control() { request == 0 } else { request != 0 || kind == RecordType::Error };
    let continued = !flags.more || (kind == RecordType::Event && !flags.last);
    // The words of an answer are never its end; of what belongs to the connection only a goodbye is.
    let ended = match kind {
        RecordType::Text | RecordType::Welcome | RecordType::Cancel | RecordType::Ack => !flags.last,
        RecordType::Goodbye => flags.last,
        RecordType::Error => flags.last || request == 0,
        RecordType::Request | RecordType::Event => true,
    };
    let sound = padded && placed && continued && ended && body.len() <= MAX_BODY;
    let body = Zeroizing::new(body.to_vec());
    sound.then_some(Record { kind, flags, request, index: u32::from_be_bytes(*index), body })
}

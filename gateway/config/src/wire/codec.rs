//! JSON as the message format of a gRPC stream.

use super::message::Messages;
use bytes::{Buf, BufMut};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::HashMap;
use std::marker::PhantomData;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// Encodes `E`, decodes `D`.
#[derive(Debug)]
pub(super) struct Json<E, D>(PhantomData<(E, D)>);

impl<E, D> Default for Json<E, D> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<E: Messages, D: Messages> Codec for Json<E, D> {
    type Encode = E;
    type Decode = D;
    type Encoder = Json<E, ()>;
    type Decoder = Json<(), D>;

    fn encoder(&mut self) -> Self::Encoder {
        Json::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        Json::default()
    }
}

impl<E: Messages> Encoder for Json<E, ()> {
    type Item = E;
    type Error = Status;

    fn encode(&mut self, message: E, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        serde_json::to_writer(out.writer(), &message).map_err(|error| Status::internal(format!("message without a JSON form: {error}")))
    }
}

impl<D: Messages> Decoder for Json<(), D> {
    type Item = D;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<D>, Status> {
        let bytes = message.copy_to_bytes(message.remaining());
        parse(&bytes).map(Some).map_err(Status::invalid_argument)
    }
}

/// Parses one message. The error names the place, never the content: that may be a private key.
pub(super) fn parse<D: Messages>(bytes: &[u8]) -> Result<D, String> {
    let outside = |error: serde_json::Error| format!("not a message: malformed JSON at line {} column {}", error.line(), error.column());
    let message: OneField<'_> = serde_json::from_slice(bytes).map_err(outside)?;
    let [name] = message.0.keys().collect::<Vec<_>>()[..] else {
        return Err(format!("not a message: an object with one field is one, this has {}", message.0.len()));
    };
    if !D::NAMES.contains(&name.as_ref()) {
        return Ok(D::UNKNOWN);
    }
    serde_json::from_slice(bytes).map_err(|error| format!("malformed message `{name}` at line {} column {}", error.line(), error.column()))
}

#[derive(Deserialize)]
struct OneField<'a>(#[serde(borrow)] HashMap<std::borrow::Cow<'a, str>, &'a RawValue>);

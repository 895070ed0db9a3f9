//! The catalogue over gRPC: `bookshop.v1.Catalogue`, with JSON messages, so that no code generator is needed.
//!
//! `Get {id} -> Book`, `List {} -> stream of Book`. The metadata that reached the service comes back as response
//! metadata with the prefix `seen-`.

use crate::books::{self, Book};
use crate::reply::Body;
use bytes::{Buf, BufMut};
use http::{Request, Response};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::marker::PhantomData;
use tokio_stream::Iter;
use tonic::body::Body as GrpcBody;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::{MetadataKey, MetadataMap, MetadataValue};
use tonic::server::{Grpc, ServerStreamingService, UnaryService};
use tonic::{Code, Status};

/// The gRPC name of the service.
pub const SERVICE: &str = "bookshop.v1.Catalogue";

/// Metadata that comes back to the caller.
const SEEN: [&str; 4] = ["selvage-principal", "x-request-id", "traceparent", "x-forwarded-for"];

/// Which book.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Which {
    #[serde(default)]
    id: u32,
}

/// Answers a gRPC request.
pub async fn answer(request: Request<GrpcBody>) -> Response<Body> {
    let mut grpc = Grpc::new(Json::<Book, Which>::default());
    match request.uri().path() {
        "/bookshop.v1.Catalogue/Get" => grpc.unary(Get, request).await,
        "/bookshop.v1.Catalogue/List" => grpc.server_streaming(List, request).await,
        path => Status::new(Code::Unimplemented, format!("{path} is not a method of {SERVICE}")).into_http(),
    }
}

struct Get;

impl UnaryService<Which> for Get {
    type Response = Book;
    type Future = std::future::Ready<Result<tonic::Response<Book>, Status>>;

    fn call(&mut self, request: tonic::Request<Which>) -> Self::Future {
        let (metadata, _, Which { id }) = request.into_parts();
        let book = books::books().into_iter().find(|book| book.id == id);
        std::future::ready(book.map(|book| seen(book, &metadata)).ok_or_else(|| Status::not_found(format!("there is no book {id}"))))
    }
}

struct List;

impl ServerStreamingService<Which> for List {
    type Response = Book;
    type ResponseStream = Iter<std::vec::IntoIter<Result<Book, Status>>>;
    type Future = std::future::Ready<Result<tonic::Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: tonic::Request<Which>) -> Self::Future {
        let all: Vec<_> = books::books().into_iter().map(Ok).collect();
        std::future::ready(Ok(seen(tokio_stream::iter(all), request.metadata())))
    }
}

/// The message with the caller's metadata beside it.
fn seen<T>(message: T, metadata: &MetadataMap) -> tonic::Response<T> {
    let mut response = tonic::Response::new(message);
    for name in SEEN {
        let value = metadata.get(name).and_then(|value| value.to_str().ok()).and_then(|value| MetadataValue::try_from(value).ok());
        if let (Some(value), Ok(key)) = (value, MetadataKey::from_bytes(format!("seen-{name}").as_bytes())) {
            response.metadata_mut().insert(key, value);
        }
    }
    response
}

/// The JSON codec: `E` is written, `D` is read.
#[derive(Debug)]
struct Json<E, D>(PhantomData<(E, D)>);

impl<E, D> Default for Json<E, D> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<E: Serialize + Send + 'static, D: DeserializeOwned + Send + 'static> Codec for Json<E, D> {
    type Encode = E;
    type Decode = D;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self::default()
    }

    fn decoder(&mut self) -> Self {
        Self::default()
    }
}

impl<E: Serialize, D> Encoder for Json<E, D> {
    type Item = E;
    type Error = Status;

    fn encode(&mut self, item: E, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        serde_json::to_writer(buffer.writer(), &item).map_err(|error| Status::internal(error.to_string()))
    }
}

impl<E, D: DeserializeOwned> Decoder for Json<E, D> {
    type Item = D;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<D>, Status> {
        serde_json::from_reader(buffer.reader())
            .map(Some)
            .map_err(|error| Status::invalid_argument(format!("not the JSON expected: {error}")))
    }
}

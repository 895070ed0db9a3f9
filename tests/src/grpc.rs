//! A gRPC client for the bookshop's catalogue: JSON messages, no code generator.

use bytes::{Buf, BufMut};
use http::uri::PathAndQuery;
use serde_json::Value;
use std::net::SocketAddr;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// A client of `bookshop.v1.Catalogue`.
#[derive(Clone, Debug)]
pub struct Catalogue {
    channel: Channel,
}

impl Catalogue {
    /// Connects to `address` and calls it `host`.
    pub async fn connect(address: SocketAddr, host: &str) -> Self {
        let origin = format!("http://{host}:{}", address.port()).parse().expect("a host");
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address").origin(origin);
        Self { channel: endpoint.connect().await.unwrap_or_else(|error| panic!("{address}: {error}")) }
    }

    /// One book, and the metadata of the answer.
    pub async fn get(&self, id: u32) -> Result<(Value, MetadataMap), Status> {
        self.get_with(id, &[]).await
    }

    /// The same with metadata of one's own.
    pub async fn get_with(&self, id: u32, metadata: &[(&'static str, &str)]) -> Result<(Value, MetadataMap), Status> {
        let mut request = Request::new(serde_json::json!({ "id": id }));
        for (name, value) in metadata {
            request.metadata_mut().insert(*name, value.parse().expect("metadata"));
        }
        let mut grpc = self.ready().await?;
        let answer = grpc.unary(request, PathAndQuery::from_static("/bookshop.v1.Catalogue/Get"), Json).await?;
        let (metadata, message, _) = answer.into_parts();
        Ok((message, metadata))
    }

    /// Every book, from a stream.
    pub async fn list(&self) -> Result<Vec<Value>, Status> {
        let mut grpc = self.ready().await?;
        let path = PathAndQuery::from_static("/bookshop.v1.Catalogue/List");
        let mut stream = grpc.server_streaming(Request::new(Value::Object(Default::default())), path, Json).await?.into_inner();
        let mut all = Vec::new();
        while let Some(book) = stream.message().await? {
            all.push(book);
        }
        Ok(all)
    }

    async fn ready(&self) -> Result<Grpc<Channel>, Status> {
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(grpc)
    }
}

/// JSON messages.
#[derive(Clone, Copy, Debug)]
struct Json;

impl Codec for Json {
    type Encode = Value;
    type Decode = Value;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Json {
    type Item = Value;
    type Error = Status;

    fn encode(&mut self, item: Value, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        serde_json::to_writer(buffer.writer(), &item).map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for Json {
    type Item = Value;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Value>, Status> {
        serde_json::from_reader(buffer.reader()).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}

//! A small bookshop of three services, to try Selvage with: storefront, catalogue and orders.
//!
//! ```text
//! storefront ──HTTP──► catalogue (HTTP and gRPC)
//!     └───────HTTP──► orders
//! ```
//!
//! It knows nothing of Selvage. Every service speaks HTTP/1.1 and HTTP/2 without TLS on one port, keeps its data in
//! memory, and tells in each answer which headers reached it, so that one can see what happened on the way.
//! The storefront finds the other two as any Kubernetes workload does: `CATALOGUE_SERVICE_HOST`, `CATALOGUE_SERVICE_PORT`, …

mod books;
mod catalogue;
mod client;
mod counters;
mod grpc;
mod orders;
mod reply;
mod serve;
mod storefront;
mod trial;

use clap::Parser;
use std::net::SocketAddr;

/// The bookshop's services.
#[derive(Parser)]
#[command(name = "bookshop", version, about)]
struct Options {
    /// Which service to be.
    #[arg(value_enum)]
    role: Role,
    /// Where to listen: HTTP/1.1 and HTTP/2 by prior knowledge on one port.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
}

/// One of the three services.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Role {
    /// What customers see; calls the other two.
    Storefront,
    /// The books; HTTP and gRPC.
    Catalogue,
    /// Who ordered what; not for everybody.
    Orders,
}

impl Role {
    /// Its name in answers and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Storefront => "storefront",
            Self::Catalogue => "catalogue",
            Self::Orders => "orders",
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    serve::serve(options.role, options.listen).await
}

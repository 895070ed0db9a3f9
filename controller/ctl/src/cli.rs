//! The command line of `selvage`: what can be asked, and help worth reading.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Runs, checks and explains an API gateway and service mesh that is described by a directory of Kubernetes manifests.
///
/// DIR holds `app/` (Services, Gateways, routes, policies: the same files that go to a cluster), and `local/` (Pods whose
/// containers run as local processes). `cluster/` is not read. State is kept in DIR/.selvage.
#[derive(Debug, Parser)]
#[command(name = "selvage", version, after_help = EXIT_CODES, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The exit codes, as help shows them.
const EXIT_CODES: &str = "Exit codes: 0 done (explain: allowed); 1 refused, denied or failed; 2 wrong usage.";

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run everything in DIR: one proxy a Gateway, one sidecar a Pod, and the Pods' processes
    ///
    /// Edits of the manifests take effect while it runs; one that does not compile is refused with its error, and what worked
    /// stays. Ctrl-C (or SIGTERM) drains and ends everything. SIGUSR1 restarts the publishing side while the proxies serve on.
    #[command(after_help = "Examples:\n  selvage up examples/bookshop\n  selvage up examples/bookshop --access-log -")]
    Up(Up),
    /// Write what the proxies would be told
    ///
    /// With --out, secrets go to a second file beside it (FILE with `.secrets` before its extension), of mode 0600; on standard output there are none.
    /// `gateway run --config FILE` and `mesh-agent run --config FILE` run from what is written.
    #[command(
        after_help = "Examples:\n  selvage render examples/bookshop\n  selvage render examples/bookshop --for bookshop/public --out edge.yaml\n  selvage render examples/bookshop --for bookshop/orders -o json"
    )]
    Render(Render),
    /// Check the manifests of DIR as admission would: errors and warnings
    ///
    /// Without DIR it asks the cluster that kubectl would speak to whether it has the kinds of Gateway API that Selvage reads, and says how to
    /// install them where it does not.
    #[command(
        after_help = "Examples:\n  selvage check examples/bookshop\n  selvage check examples/bookshop -o json | jq .errors\n  selvage check"
    )]
    Check(Check),
    /// Tell what would happen to a request, hop by hop, and which objects decide
    ///
    /// The request runs through the same compiled configuration as live traffic; nothing is sent and no limit is used up.
    /// Without --from it comes from outside and enters by the Gateway whose listener takes the URL's port (and host).
    /// With --from it is sent by that workload, and the URL names a Service: http://SERVICE.NAMESPACE:PORT/.
    #[command(after_help = EXPLAIN_EXAMPLES)]
    Explain(Explain),
    /// List the proxies: role, version, whether each has what it is to have, and how long its certificate lasts
    ///
    /// Without DIR and --url it asks the controller in the cluster that kubectl would speak to, through the API server.
    #[command(
        after_help = "Examples:\n  selvage status\n  selvage status examples/bookshop\n  selvage status --url http://127.0.0.1:15420 -o json"
    )]
    Status(Status),
    /// Become a local process of `up` that ends with it
    #[command(hide = true)]
    Launch(Launch),
    /// Print the version
    #[command(after_help = "Examples:\n  selvage version\n  selvage version -o json")]
    Version(Version),
    /// Print completions for a shell
    #[command(after_help = "Example:\n  source <(selvage completion bash)")]
    Completion {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

const EXPLAIN_EXAMPLES: &str = "Examples:
  selvage explain examples/bookshop --url http://127.64.1.1:8080/orders/17
  selvage explain examples/bookshop --from bookshop/storefront --url http://orders.bookshop:8080/orders/17
  selvage explain examples/bookshop --from bookshop/storefront --method DELETE --url http://orders.bookshop:8080/orders/17 -o json
  selvage explain examples/bookshop --url https://shop.example.com:8443/ --header x-client:alice --source 192.0.2.7";

/// `selvage launch`
#[derive(Debug, Args)]
pub struct Launch {
    /// Process id of `selvage up`.
    pub parent: i32,
    /// Program and arguments.
    #[arg(last = true)]
    pub command: Vec<String>,
}

/// `selvage up`
#[derive(Debug, Args)]
pub struct Up {
    /// The directory of manifests.
    pub dir: PathBuf,
    /// Where access logs go: a file, or `-` for standard output.
    #[arg(long, value_name = "FILE")]
    pub access_log: Option<String>,
    /// Threads of each proxy.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub threads: u16,
    /// Write no certificates for HTTPS listeners whose Secret is missing; the listeners stay closed.
    #[arg(long)]
    pub no_certificates: bool,
}

/// `selvage render`
#[derive(Debug, Args)]
pub struct Render {
    /// The directory of manifests.
    pub dir: PathBuf,
    /// The file to write; absent: standard output, without secrets.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// One proxy's view: a Gateway or a Pod, as KIND/NAMESPACE/NAME, or NAMESPACE/NAME or just NAME where that is unambiguous.
    #[arg(long = "for", value_name = "NAME")]
    pub view: Option<String>,
    /// The form on standard output; absent: YAML, the form of every file.
    #[arg(short, long, value_enum, conflicts_with = "out")]
    pub output: Option<Form>,
}

/// `selvage check`
#[derive(Debug, Args)]
pub struct Check {
    /// The directory of manifests; absent: the cluster.
    pub dir: Option<PathBuf>,
    /// The form; absent: text for people.
    #[arg(short, long, value_enum)]
    pub output: Option<Form>,
}

/// `selvage explain`
#[derive(Debug, Args)]
pub struct Explain {
    /// The directory of manifests.
    pub dir: PathBuf,
    /// The workload that sends it: NAMESPACE/NAME of a Pod or of its service account. Absent: from outside.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub from: Option<String>,
    /// Where to: scheme, host, port and path.
    #[arg(long, visible_alias = "to", value_name = "URL")]
    pub url: String,
    /// The method.
    #[arg(long, short = 'X', default_value = "GET")]
    pub method: String,
    /// A header field; may be repeated.
    #[arg(long, short = 'H', value_name = "NAME:VALUE")]
    pub header: Vec<String>,
    /// The Gateway it enters by, where several would take it.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub gateway: Option<String>,
    /// The client's address.
    #[arg(long, value_name = "ADDRESS", default_value = "192.0.2.1")]
    pub source: std::net::IpAddr,
    /// The form; absent: text for people.
    #[arg(short, long, value_enum)]
    pub output: Option<Form>,
}

/// `selvage status`
#[derive(Debug, Args)]
pub struct Status {
    /// A directory in which `selvage up` runs.
    pub dir: Option<PathBuf>,
    /// A controller's metrics port.
    #[arg(long, value_name = "http://HOST:PORT", conflicts_with = "dir")]
    pub url: Option<String>,
    /// The form; absent: a table for people.
    #[arg(short, long, value_enum)]
    pub output: Option<Form>,
}

/// `selvage version`
#[derive(Debug, Args)]
pub struct Version {
    /// The form; absent: one line.
    #[arg(short, long, value_enum)]
    pub output: Option<Form>,
}

/// A form of output for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn every_command_with_output_takes_both_forms() {
        let commands: &[&[&str]] = &[
            &["render", "DIR"],
            &["check", "DIR"],
            &["check"],
            &["explain", "DIR", "--url", "http://a/"],
            &["status"],
            &["status", "DIR"],
            &["version"],
        ];
        for command in commands {
            for form in ["json", "yaml"] {
                let line: Vec<&str> = ["selvage"].iter().chain(*command).chain(&["-o", form]).copied().collect();
                assert!(Cli::try_parse_from(&line).is_ok(), "{line:?}");
            }
        }
        let both = ["selvage", "render", "DIR", "--out", "F", "-o", "json"];
        assert_eq!(Cli::try_parse_from(both).expect_err("a file is YAML").kind(), clap::error::ErrorKind::ArgumentConflict);
    }

    #[test]
    fn the_help_of_every_command_has_examples() {
        for command in Cli::command().get_subcommands().filter(|one| !one.is_hide_set()) {
            let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(examples.contains(&format!("selvage {}", command.get_name())), "{}", command.get_name());
        }
    }
}

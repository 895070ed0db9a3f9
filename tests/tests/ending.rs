//! The end of `selvage up`: nothing is left. In a file of its own and one test after the other, because what runs beside would take the
//! addresses that become free.

use selvage_tests::{Client, Directory, Running};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Held by the test that runs.
static ALONE: Mutex<()> = Mutex::const_new(());

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interrupting_it_leaves_no_process_and_no_port() {
    let _alone = ALONE.lock().await;
    let directory = Directory::copy_of("examples/bookshop");
    let running = Running::start(&directory).await;
    let gateway = running.gateway("bookshop/public", 8080);
    let wire = format!(
        "127.{}.0.1:15410",
        match gateway.ip() {
            std::net::IpAddr::V4(address) => address.octets()[1],
            std::net::IpAddr::V6(address) => panic!("{address} is no laptop address"),
        }
    );
    let mut places: Vec<String> = vec![gateway.to_string(), wire];
    for workload in running.addresses.workloads.values() {
        places.push(format!("{}:8080", workload.mesh));
        places.push(format!("{}:8080", workload.local));
        places.extend(workload.services.values().map(|address| format!("{address}:8080")));
    }
    let open = |place: &String| std::net::TcpStream::connect(place).is_ok();
    assert!(places.iter().all(open), "not everything listens: {:?}", places.iter().filter(|place| !open(place)).collect::<Vec<_>>());
    let children = descendants(running.pid());
    assert!(children.len() >= 3, "three services run: {children:?}");

    // A request in flight is finished.
    let process = Client::new(SocketAddr::new(running.workload("bookshop/storefront").local, 8080));
    let slow = running.client("bookshop/public", 8080);
    let slow = tokio::spawn(async move { slow.get("/slow?ms=3000").await });
    let begun = Instant::now();
    while process.get("/counters").await.expect(200).json()["counters"]["/slow"] != 1 {
        assert!(begun.elapsed() < PATIENCE, "no request is under way");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (code, said) = running.end("INT").await;
    assert_eq!(code, Some(0), "{said}");
    slow.await.expect("the request did not panic").expect(200);

    for child in children {
        let gone = std::fs::read_to_string(format!("/proc/{child}/stat")).map_or(true, |stat| stat.contains(") Z "));
        assert!(gone, "process {child} still runs");
    }
    let left: Vec<_> = places.iter().filter(|place| open(place)).collect();
    assert!(left.is_empty(), "something still listens: {left:?}");
    assert!(!directory.path().join(".selvage/up.json").exists(), "up.json is left behind");
    // And it starts again, at the same addresses.
    let again = Running::start(&directory).await;
    assert_eq!(again.gateway("bookshop/public", 8080), gateway);
}

/// Processes below `pid`, from /proc.
fn descendants(pid: u32) -> Vec<u32> {
    let mut parents = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        // `pid (name) state parent …`; the name may contain anything.
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        parents.extend(parent.map(|parent| (id, parent)));
    }
    let mut found = vec![pid];
    let mut at = 0;
    while at < found.len() {
        let above = found[at];
        found.extend(parents.iter().filter(|(_, parent)| *parent == above).map(|(id, _)| *id));
        at += 1;
    }
    found.split_off(1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_it_leaves_no_process_either() {
    let _alone = ALONE.lock().await;
    let directory = Directory::copy_of("examples/bookshop");
    let running = Running::start(&directory).await;
    let children = descendants(running.pid());
    assert!(children.len() >= 3, "three services run: {children:?}");
    let alive = |child: &u32| std::fs::read_to_string(format!("/proc/{child}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    assert!(children.iter().all(alive));
    drop(running);
    let begun = Instant::now();
    while children.iter().any(alive) {
        assert!(begun.elapsed() < PATIENCE, "processes are left: {:?}", children.iter().filter(|child| alive(child)).collect::<Vec<_>>());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

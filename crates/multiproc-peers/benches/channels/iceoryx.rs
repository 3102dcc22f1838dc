//! The crate iceoryx2: publish and subscribe through shared memory, with one copy at the sender and
//! none at the receiver, and with an event that wakes the subscriber.
//!
//! Its ports are created where they are used, and find each other by name. Its files have names
//! with this run's prefix, so that nothing is left of slices that were killed.

use iceoryx2::node::Node;
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;
use multiproc_benches::Outcome;
use multiproc_benches::leftovers::prefix;
use multiproc_benches::sys::nanoseconds;

use super::channel::{Channel, Ends, Rx, Tx, depth};

type Service = ipc::Service;
type OutPorts = (Publisher<Service, [u8], ()>, Notifier<Service>);
type InPorts = (Subscriber<Service, [u8], ()>, Listener<Service>);

pub(crate) struct PubSub;

impl Channel for PubSub {
    type Tx = Producer;
    type Rx = Consumer;

    fn line(size: usize, _: usize, _: usize) -> Outcome<Ends<Self>> {
        set_log_level(LogLevel::Error);
        // Unique, because one process creates the names one after the other.
        let name = format!("line-{}", nanoseconds());
        // The parent of a slice is the benchmark's main process, with which all slices share their
        // prefix.
        let line = Line { run: std::os::unix::process::parent_id(), name, size };
        Ok((
            vec![Producer { line: line.clone(), ports: None, node: None }],
            vec![Consumer { line, ports: None, node: None }],
        ))
    }
}

/// A pair of ports that find each other by name.
#[derive(Clone)]
struct Line {
    run: u32,
    name: String,
    size: usize,
}

pub(crate) struct Producer {
    line: Line,
    ports: Option<OutPorts>,
    node: Option<Node<Service>>,
}

impl Tx for Producer {
    fn open(&mut self) -> Outcome<()> {
        let (node, messages, event) = self.line.services()?;
        let publisher = messages
            .publisher_builder()
            .initial_max_slice_len(self.line.size)
            .backpressure_strategy(BackpressureStrategy::RetryUntilDelivered)
            .create()?;
        self.ports = Some((publisher, event.notifier_builder().create()?));
        self.node = Some(node);
        Ok(())
    }

    fn send(&mut self, message: &[u8]) -> Outcome<()> {
        let (publisher, notifier) = self.ports.as_ref().ok_or("not open")?;
        publisher.loan_slice_uninit(message.len())?.write_from_slice(message).send()?;
        notifier.notify()?;
        Ok(())
    }
}

pub(crate) struct Consumer {
    line: Line,
    ports: Option<InPorts>,
    node: Option<Node<Service>>,
}

impl Rx for Consumer {
    fn open(&mut self) -> Outcome<()> {
        let (node, messages, event) = self.line.services()?;
        self.ports = Some((messages.subscriber_builder().create()?, event.listener_builder().create()?));
        self.node = Some(node);
        Ok(())
    }

    fn recv<T>(&mut self, look: impl FnOnce(&[u8]) -> T) -> Outcome<T> {
        let (subscriber, listener) = self.ports.as_ref().ok_or("not open")?;
        loop {
            if let Some(sample) = subscriber.receive()? {
                return Ok(look(sample.payload()));
            }
            listener.blocking_wait(|_| {})?;
        }
    }
}

type Messages = iceoryx2::service::port_factory::publish_subscribe::PortFactory<Service, [u8], ()>;
type Events = iceoryx2::service::port_factory::event::PortFactory<Service>;

impl Line {
    /// Whichever side comes first creates the services; the other opens them.
    fn services(&self) -> Outcome<(Node<Service>, Messages, Events)> {
        let mut config = Config::default();
        config.global.prefix = FileName::new(prefix(self.run).as_bytes())?;
        config.global.set_root_path(&Path::new(format!("/tmp/{}iceoryx2", prefix(self.run)).as_bytes())?);
        let node = NodeBuilder::new().config(&config).create::<Service>()?;
        let messages = node
            .service_builder(&ServiceName::new(&self.name)?)
            .publish_subscribe::<[u8]>()
            .subscriber_max_buffer_size(depth(self.size))
            .enable_safe_overflow(false)
            .history_size(0)
            .open_or_create()?;
        let event = ServiceName::new(&format!("{}-event", self.name))?;
        let events = node.service_builder(&event).event().open_or_create()?;
        Ok((node, messages, events))
    }
}

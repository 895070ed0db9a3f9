//! Objects that are gone.

use super::{Name, World};
use selvage_policy::Key;

impl World {
    /// Takes out the object of that key, whatever form it was in.
    pub fn remove(&mut self, key: &Key) {
        self.malformed.remove(key);
        let name = Name::new(key.namespace.clone(), key.name.clone());
        match key.kind.as_str() {
            "Namespace" => drop(self.namespaces.remove(&name)),
            "Pod" => drop(self.pods.remove(&name)),
            "Service" => drop(self.services.remove(&name)),
            "EndpointSlice" => drop(self.slices.remove(&name)),
            "Secret" => drop(self.secrets.remove(&name)),
            "GatewayClass" => drop(self.classes.remove(&name)),
            "Gateway" => drop(self.gateways.remove(&name)),
            "ListenerSet" => drop(self.listener_sets.remove(&name)),
            "ReferenceGrant" => drop(self.grants.remove(&name)),
            "MeshConfig" => drop(self.mesh_configs.remove(&name)),
            _ => {
                self.routes.remove(key);
                self.policies.remove(key);
            }
        }
    }
}

import ControlPlane
import Transport

/// Who is at the other end of each connection that the machine speaks of.
struct PeerTable {
  private var peers: [Connection: PeerIdentity] = [:]
  /// Orders go to the same thousands again and again, and looking them up is most of the work.
  private var newest: (connections: [Connection], peers: [PeerIdentity])?

  var count: Int { peers.count }
  var all: [(connection: Connection, peer: PeerIdentity)] { peers.map { ($0.key, $0.value) } }

  subscript(connection: Connection) -> PeerIdentity? {
    get { peers[connection] }
    set {
      peers[connection] = newValue
      newest = nil
    }
  }

  /// Forgets those at other connections.
  mutating func keep(_ connections: Set<Connection>) {
    peers = peers.filter { connections.contains($0.key) }
    newest = nil
  }

  /// Those of the connections that somebody is known to be at, in order.
  mutating func find(_ connections: [Connection]) -> (connections: [Connection], peers: [PeerIdentity]) {
    if let newest, newest.connections == connections { return newest }
    var found: (connections: [Connection], peers: [PeerIdentity]) = ([], [])
    for connection in connections {
      guard let peer = peers[connection] else { continue }
      found.connections.append(connection)
      found.peers.append(peer)
    }
    if connections.count > 1, found.connections.count == connections.count { newest = found }
    return found
  }
}

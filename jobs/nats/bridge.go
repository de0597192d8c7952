package nats

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
)

// Bridge describes how a lone server and the one that takes its place are one bus as
// long as both are there. It is no cluster: JetStream, which is a cache, stays
// each server's own.
type Bridge struct {
	Port int `yaml:"port"` // for the other server, on the same address
	// PeerName is Cluster.PeerName.
	PeerName string `yaml:"peer_name"`
	// JoinsFile holds the addresses of the servers to join, a line each: none as
	// long as nothing moves. Those that stand in it at the start are joined, as long
	// as they stand in it.
	JoinsFile string `yaml:"joins_file"`
}

// rejoinInterval says how soon a server that does not answer is tried again.
const rejoinInterval = time.Second

// ownSubjects do not cross the bridge: JetStream's API, and its stores'.
var ownSubjects = []string{"$JS.>", "$O.>", "$KV.>"}

func (b *Bridge) validate() error {
	var problems []error
	if b.Port <= 0 || b.Port > 65535 {
		problems = append(problems, fmt.Errorf("bridge: port %d is none", b.Port))
	}
	if b.PeerName == "" {
		problems = append(problems, errors.New("bridge: peer_name is missing"))
	}
	if b.JoinsFile == "" {
		problems = append(problems, errors.New("bridge: joins_file is missing"))
	}
	return errors.Join(problems...)
}

// listen lets another server of the bus join, and joins those that there are.
// Its certificate admits a server; the user's name only says for which account
// the connection is.
func (b *Bridge) listen(options *natsserver.Options, cfg Config, admission *admission) error {
	// nats-server takes servers of one name for one, which joins itself.
	options.ServerName = cfg.Name + "-" + cfg.Address
	options.LeafNode = natsserver.LeafNodeOpts{
		Host:              cfg.Address,
		Port:              b.Port,
		TLSConfig:         admission.peerConfig(b.PeerName),
		TLSHandshakeFirst: true, // nothing is said to a stranger
		TLSTimeout:        tlsTimeout.Seconds(),
		AuthTimeout:       tlsTimeout.Seconds() + 1,
		ReconnectInterval: rejoinInterval,
		NoAdvertise:       true,
		Compression:       natsserver.CompressionOpts{Mode: natsserver.CompressionOff},
	}
	for _, account := range options.Accounts {
		if account.Name == accountAgents || account.Name == accountComponents {
			options.LeafNode.Users = append(options.LeafNode.Users, &natsserver.User{Username: account.Name, Account: account})
		}
	}
	remotes, err := b.remotes(cfg, admission)
	options.LeafNode.Remotes = remotes
	return err
}

// joins reads which servers to join.
func (b *Bridge) joins(own string) ([]netip.Addr, error) {
	text, err := os.ReadFile(b.JoinsFile)
	if err != nil {
		return nil, fmt.Errorf("cannot read the addresses of the servers to join: %w", err)
	}
	var out []netip.Addr
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || line == own {
			continue
		}
		address, err := netip.ParseAddr(line)
		if err != nil {
			return nil, fmt.Errorf("cannot use the addresses of the servers to join in %s: %w", b.JoinsFile, err)
		}
		out = append(out, address)
	}
	return out, nil
}

// remotes are the connections to the servers to join, one for each account.
// nats-server keeps them until it ends: it can change them only together with all
// accounts, which takes everybody's connection. So a server that is not to be
// joined any more is dialled on, and refused should another be there by then: the
// two would join each other twice.
func (b *Bridge) remotes(cfg Config, admission *admission) ([]*natsserver.RemoteLeafOpts, error) {
	addresses, err := b.joins(cfg.Address)
	if err != nil {
		return nil, err
	}
	var remotes []*natsserver.RemoteLeafOpts
	for _, address := range addresses {
		config := admission.peerConfig(b.PeerName)
		verify := config.VerifyConnection
		config.VerifyConnection = func(state tls.ConnectionState) error {
			if now, err := b.joins(cfg.Address); err != nil || !slices.Contains(now, address) {
				return fmt.Errorf("%s is not to be joined any more", address)
			}
			return verify(state)
		}
		for _, account := range []string{accountAgents, accountComponents} {
			remotes = append(remotes, &natsserver.RemoteLeafOpts{
				LocalAccount: account,
				URLs: []*url.URL{{
					Scheme: "tls", User: url.User(account), Host: net.JoinHostPort(address.String(), strconv.Itoa(b.Port)),
				}},
				TLS: true, TLSHandshakeFirst: true, TLSConfig: config, TLSTimeout: tlsTimeout.Seconds(),
				DenyImports: slices.Clone(ownSubjects), DenyExports: slices.Clone(ownSubjects),
				IgnoreDiscoveredServers: true,
				Compression:             natsserver.CompressionOpts{Mode: natsserver.CompressionOff},
			})
		}
	}
	return remotes, nil
}

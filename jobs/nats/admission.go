package nats

import (
	"bytes"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
)

// The accounts: who is in one sees nothing of the other.
const (
	accountAgents     = "AGENTS"
	accountComponents = "COMPONENTS"
)

// credentials describe what a reload replaces, as a whole.
type credentials struct {
	tls      *tls.Config
	password []byte
	users    users
}

// loadCredentials reads and checks the files that cfg names.
func loadCredentials(cfg Config) (*credentials, error) {
	password, err := os.ReadFile(cfg.PasswordFile)
	if err != nil {
		return nil, fmt.Errorf("cannot read the components' password: %w", err)
	}
	password = bytes.TrimRight(password, "\r\n")
	if len(password) == 0 {
		return nil, fmt.Errorf("the components' password in %s is empty", cfg.PasswordFile)
	}
	certificate, err := tls.LoadX509KeyPair(cfg.CertificateFile, cfg.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("cannot read the server's certificate %s and key: %w", cfg.CertificateFile, err)
	}
	text, err := os.ReadFile(cfg.CAFile)
	if err != nil {
		return nil, fmt.Errorf("cannot read the deployment's CA: %w", err)
	}
	cas := x509.NewCertPool()
	if !cas.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("no certificate in the CA file %s", cfg.CAFile)
	}
	table, err := readUsers(cfg.UsersFile)
	if err != nil {
		return nil, err
	}
	return &credentials{
		password: password,
		users:    table,
		tls: &tls.Config{
			MinVersion:   tls.VersionTLS12,
			Certificates: []tls.Certificate{certificate},
			ClientCAs:    cas,
			// Components have no certificate; one that is given must be good.
			ClientAuth: tls.VerifyClientCertIfGiven,
			// A resumed session would outlive a change of the CA.
			SessionTicketsDisabled: true,
		},
	}, nil
}

// admission decides who may connect, and as whom. It is nats-server's custom
// client authentication.
type admission struct {
	deploymentID string
	user         string // the shared one
	shared       bool   // it is admitted
	log          *slog.Logger
	credentials  atomic.Pointer[credentials]

	agents, components *natsserver.Account
	system             func() *natsserver.Account // the server makes it when it starts
}

// tlsConfig gives each new connection the credentials of the moment, so that a
// reload touches no existing one.
func (a *admission) tlsConfig() *tls.Config {
	config := a.credentials.Load().tls.Clone()
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return a.credentials.Load().tls, nil
	}
	return config
}

// Check implements server.Authentication.
func (a *admission) Check(client natsserver.ClientAuthentication) bool {
	user, err := a.admit(client)
	if err != nil {
		a.log.Warn("connection refused", "remote", client.RemoteAddress(), "reason", err)
		return false
	}
	client.RegisterUser(user)
	return true
}

func (a *admission) admit(client natsserver.ClientAuthentication) (*natsserver.User, error) {
	if client.Kind() != natsserver.CLIENT {
		return nil, errors.New("only clients are admitted")
	}
	// VerifiedChains is set by the handshake only for a certificate that a CA of
	// ours signed, for client use, and that has not expired.
	if state := client.GetTLSConnectionState(); state != nil && len(state.VerifiedChains) > 0 {
		certificate := state.VerifiedChains[0][0]
		who, err := certificateIdentity(certificate, a.deploymentID)
		if err == nil {
			user := &natsserver.User{
				Username:           who.uri,
				Account:            a.agents,
				ConnectionDeadline: certificate.NotAfter,
			}
			if !who.deployer {
				user.Permissions = agentPermissions(who.instance)
				return user, nil
			}
			// The deployer's certificate admits to every account; the user's name says
			// to which.
			switch name := client.GetOpts().Username; name {
			case "", "agents":
			case "components":
				user.Account = a.components
			case "system":
				user.Account = a.system()
			default:
				return nil, fmt.Errorf("the deployer asks for account %q, which there is not", name)
			}
			return user, nil
		}
		if !errors.Is(err, errNoIdentity) {
			return nil, err
		}
	}
	options := client.GetOpts()
	if options.Username == "" && options.Password == "" {
		return nil, errors.New("neither a certificate of the deployment nor user and password were given")
	}
	now := a.credentials.Load()
	if user, err := now.users.admit(options.Username, options.Password, options.Name, now.password); user != nil || err != nil {
		if user != nil {
			user.Account = a.components
		}
		return user, err
	}
	userMatches := subtle.ConstantTimeCompare([]byte(options.Username), []byte(a.user))
	passwordMatches := subtle.ConstantTimeCompare([]byte(options.Password), now.password)
	if userMatches&passwordMatches != 1 {
		return nil, errors.New("wrong user or password")
	}
	if !a.shared {
		return nil, fmt.Errorf("the shared user %q is not admitted any more (property shared_user); give the job a bus block", a.user)
	}
	a.log.Warn("a component uses the shared user, which may do everything: update it, or give its job a bus block", "client", options.Name, "remote", client.RemoteAddress())
	return &natsserver.User{
		Username:    a.user,
		Account:     a.components,
		Permissions: componentPermissions(),
	}, nil
}

// ends says when the server's own certificate ends.
func (c *credentials) ends() time.Time {
	if leaf := c.tls.Certificates[0].Leaf; leaf != nil {
		return leaf.NotAfter
	}
	return time.Time{}
}

package nats

import (
	"crypto/x509"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
)

// The truth about identities and subjects is deploy/agent/api, methods.go. Jobs
// may not import it, so what the server must know is repeated here;
// identity_test.go compares the two.
const (
	identityScheme    = "deploy://"
	heartbeatPrefix   = "heartbeat."
	heartbeatWildcard = heartbeatPrefix + "*.*"
	agentPrefix       = "agent."
	agentInboxPrefix  = "_INBOX_agent."
	agentServiceName  = "agent"
	packageStreamName = "OBJ_packages" // the stream of the object store "packages"
)

// identity describes who a client certificate says it is: the deployer, or the agent
// of an instance.
type identity struct {
	uri      string
	deployer bool
	instance string // "router/0"; "" for the deployer
}

// instancePattern is the only form of an instance name that becomes a subject:
// no dot, no wildcard, no second slash, no leading zero.
var instancePattern = regexp.MustCompile(`^[A-Za-z0-9_-]+/(0|[1-9][0-9]{0,8})$`)

var errNoIdentity = errors.New("certificate names no identity of a deployment")

// certificateIdentity reads the identity of a verified client certificate: its
// one URI SAN. A certificate without one gives errNoIdentity.
func certificateIdentity(certificate *x509.Certificate, deploymentID string) (identity, error) {
	if len(certificate.URIs) == 0 {
		return identity{}, errNoIdentity
	}
	if len(certificate.URIs) > 1 {
		return identity{}, fmt.Errorf("certificate names %d identities, want one", len(certificate.URIs))
	}
	return parseIdentity(certificate.URIs[0].String(), deploymentID)
}

func parseIdentity(uri, deploymentID string) (identity, error) {
	rest, found := strings.CutPrefix(uri, identityScheme+deploymentID+"/")
	if !found {
		return identity{}, fmt.Errorf("identity %q is not of deployment %q", uri, deploymentID)
	}
	if rest == "deployer" {
		return identity{uri: uri, deployer: true}, nil
	}
	instance, found := strings.CutPrefix(rest, "agent/")
	if !found || !instancePattern.MatchString(instance) {
		return identity{}, fmt.Errorf("identity %q is neither an agent nor a deployer", uri)
	}
	return identity{uri: uri, instance: instance}, nil
}

// subjectToken turns "router/0" into the subject tokens "router.0".
func subjectToken(instance string) string { return strings.ReplaceAll(instance, "/", ".") }

// agentPermissions let the agent of an instance speak for itself and nobody else.
func agentPermissions(instance string) *natsserver.Permissions {
	token := subjectToken(instance)
	subscribe := []string{
		agentPrefix + token + ".*",
		agentInboxPrefix + token + ".>",
	}
	// Control subjects of a NATS micro service (nats.go/micro, ADR-32).
	for _, verb := range []string{"PING", "INFO", "STATS"} {
		subject := "$SRV." + verb
		subscribe = append(subscribe, subject, subject+"."+agentServiceName, subject+"."+agentServiceName+".*")
	}
	return &natsserver.Permissions{
		Publish: &natsserver.SubjectPermission{Allow: []string{
			heartbeatPrefix + token,
			// Direct get (ADR-31) reads one stream: request in the body, or last
			// message of the subject that follows.
			"$JS.API.DIRECT.GET." + packageStreamName,
			"$JS.API.DIRECT.GET." + packageStreamName + ".>",
		}},
		Subscribe: &natsserver.SubjectPermission{Allow: subscribe},
		// Answers to whoever asked. A request that waits does so for 30 s at most
		// (api.WaitRequest).
		Response: &natsserver.ResponsePermission{MaxMsgs: 16, Expires: 2 * time.Minute},
	}
}

// componentPermissions leave the account's application subjects to components, and
// the server's own, and agents', to nobody.
func componentPermissions() *natsserver.Permissions {
	return &natsserver.Permissions{
		Publish:   &natsserver.SubjectPermission{Deny: []string{"$SYS.>", heartbeatPrefix + ">"}},
		Subscribe: &natsserver.SubjectPermission{Deny: []string{"$SYS.>", heartbeatPrefix + ">"}},
	}
}

package nats

import (
	"slices"
	"testing"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"pgregory.net/rapid"

	"github.com/clusterworks/deploy/agent/api"
)

// What identity.go repeats is what agent/api says, for any instance.
func TestIdentityAgreesWithAPI(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		deployment := rapid.StringMatching(`[a-z0-9-]{1,20}`).Draw(t, "deployment")
		instance := api.InstanceID(
			rapid.StringMatching(`[a-z][a-z0-9_-]{0,15}`).Draw(t, "group"),
			rapid.IntRange(0, 100_000).Draw(t, "index"))

		who, err := parseIdentity(api.AgentIdentity(deployment, instance), deployment)
		if err != nil || who.deployer || who.instance != instance {
			t.Fatalf("agent %s: got %+v, %v", instance, who, err)
		}
		who, err = parseIdentity(api.DeployerIdentity(deployment), deployment)
		if err != nil || !who.deployer || who.instance != "" {
			t.Fatalf("deployer: got %+v, %v", who, err)
		}

		permissions := agentPermissions(instance)
		allowed := func(list []string, subject string) bool {
			return slices.ContainsFunc(list, func(pattern string) bool { return natsserver.SubjectsCollide(pattern, subject) })
		}
		for _, method := range api.Methods() {
			if subject := api.Subject(instance, method); !allowed(permissions.Subscribe.Allow, subject) {
				t.Errorf("cannot subscribe to own %s", subject)
			}
			if subject := api.Subject("another/7", method); allowed(permissions.Subscribe.Allow, subject) && instance != "another/7" {
				t.Errorf("can subscribe to %s", subject)
			}
		}
		for _, subject := range []string{
			api.InboxPrefix(instance) + ".x.y",
			"$SRV.PING", "$SRV.INFO." + api.ServiceName, "$SRV.STATS." + api.ServiceName + ".id",
		} {
			if !allowed(permissions.Subscribe.Allow, subject) {
				t.Errorf("cannot subscribe to %s", subject)
			}
		}
		for _, subject := range []string{api.HeartbeatSubject(instance), "$JS.API.DIRECT.GET.OBJ_" + api.PackageBucket} {
			if !allowed(permissions.Publish.Allow, subject) {
				t.Errorf("cannot publish to %s", subject)
			}
		}
	})
}

func TestParseIdentityRefuses(t *testing.T) {
	for _, uri := range []string{
		"",
		"deploy://d1",
		"deploy://d1/",
		"deploy://d1/agent/",
		"deploy://d1/agent/router",
		"deploy://d1/agent/router/",
		"deploy://d1/agent/router/00",
		"deploy://d1/agent/router/-1",
		"deploy://d1/agent/router/0/1",
		"deploy://d1/agent/router/*",
		"deploy://d1/agent/*/0",
		"deploy://d1/agent/>/0",
		"deploy://d1/agent/a.b/0",
		"deploy://d1/agent/a b/0",
		"deploy://d1/agent/router%2F0/0",
		"deploy://d1/agent/router/0\n",
		"deploy://d1/deployer/0",
		"deploy://d2/deployer",
		"deploy://d2/agent/router/0",
		"deploy://d11/agent/router/0",
		"http://d1/deployer",
	} {
		if who, err := parseIdentity(uri, "d1"); err == nil {
			t.Errorf("%q was taken for %+v", uri, who)
		}
	}
}

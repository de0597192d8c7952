package nats

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/clusterworks/deploy/agent/api"
)

// What an agent may and may not send and hear, against the real server.
func TestAgentPermissions(t *testing.T) {
	t.Parallel()
	b := startBus(t, nil)
	const me, other = "router/0", "router/1"

	for _, c := range []struct {
		subject string
		allowed bool
	}{
		{api.HeartbeatSubject(me), true},
		{"$JS.API.DIRECT.GET.OBJ_packages", true},
		{"$JS.API.DIRECT.GET.OBJ_packages.$O.packages.M.x", true},

		{api.HeartbeatSubject(other), false},
		{api.HeartbeatSubject("router/00"), false},
		{api.HeartbeatSubject(me) + ".x", false},
		{api.Subject(me, api.MethodSubmit), false},
		{api.Subject(other, api.MethodSubmit), false},
		{api.InboxPrefix(other) + ".x", false},
		{api.InboxPrefix(me) + ".x", false},
		{"_INBOX.x.y", false},
		{"$JS.API.DIRECT.GET.OBJ_other", false},
		{"$JS.API.DIRECT.GET.OBJ_other.x", false},
		{"$JS.API.DIRECT.GET.KV_secrets.$KV.secrets.x", false},
		{"$JS.API.INFO", false},
		{"$JS.API.STREAM.NAMES", false},
		{"$JS.API.STREAM.LIST", false},
		{"$JS.API.STREAM.CREATE.OBJ_mine", false},
		{"$JS.API.STREAM.UPDATE.OBJ_packages", false},
		{"$JS.API.STREAM.DELETE.OBJ_packages", false},
		{"$JS.API.STREAM.PURGE.OBJ_packages", false},
		{"$JS.API.STREAM.INFO.OBJ_packages", false},
		{"$JS.API.STREAM.MSG.GET.OBJ_packages", false},
		{"$JS.API.STREAM.MSG.DELETE.OBJ_packages", false},
		{"$JS.API.CONSUMER.CREATE.OBJ_packages", false},
		{"$JS.API.CONSUMER.CREATE.OBJ_packages.x.$O.packages.C.x", false},
		{"$JS.API.CONSUMER.DURABLE.CREATE.OBJ_packages.x", false},
		{"$JS.ACK.OBJ_packages.x", false},
		{"$O.packages.C.x", false},
		{"$O.packages.M.x", false},
		{"$SYS.REQ.USER.INFO", false},
		{"$SYS.REQ.SERVER.PING", false},
		{"$SYS.REQ.ACCOUNT.PING.CONNZ", false},
		{"$SRV.PING", false},
		{"$SRV.PING.agent", false},
		{"router.register", false},
		{"anything", false},
	} {
		t.Run("publish "+c.subject, func(t *testing.T) {
			conn := b.agent(t, me)
			must(t, conn.Publish(c.subject, nil))
			checkRefused(t, settle(t, conn), !c.allowed)
		})
	}

	for _, c := range []struct {
		subject string
		allowed bool
	}{
		{api.Subject(me, api.MethodInventory), true},
		{api.Subject(me, "*"), true},
		{api.InboxPrefix(me) + ".>", true},
		{api.InboxPrefix(me) + ".x", true},
		{"$SRV.PING", true},
		{"$SRV.PING.agent", true},
		{"$SRV.PING.agent.id", true},
		{"$SRV.INFO.agent.id", true},
		{"$SRV.STATS.agent.id", true},

		{api.Subject(other, api.MethodInventory), false},
		{api.Subject(other, "*"), false},
		{"agent.router.*.inventory", false},
		{"agent.*.0.inventory", false},
		{"agent.*.*.*", false},
		{"agent.>", false},
		{api.InboxPrefix(other) + ".>", false},
		{"_INBOX_agent.>", false},
		{"_INBOX_agent.*.0.x", false},
		{"_INBOX.>", false},
		{"_INBOX.x", false},
		{">", false},
		{"*", false},
		{"*.>", false},
		{"*.*.*.*", false},
		{api.HeartbeatWildcard, false},
		{api.HeartbeatSubject(me), false},
		{"$SYS.>", false},
		{"$JS.>", false},
		{"$JS.API.>", false},
		{"$JS.EVENT.>", false},
		{"$O.>", false},
		{"$O.packages.C.>", false},
		{"$SRV.>", false},
		{"$SRV.PING.other", false},
		{"$SRV.PING.*", false},
		{"_R_.>", false},
	} {
		for _, queue := range []string{"", "q"} {
			t.Run(fmt.Sprintf("subscribe %s queue %q", c.subject, queue), func(t *testing.T) {
				conn := b.agent(t, me)
				_, err := conn.QueueSubscribeSync(c.subject, queue)
				must(t, err)
				checkRefused(t, settle(t, conn), !c.allowed)
			})
		}
	}
}

func checkRefused(t *testing.T, err error, refused bool) {
	t.Helper()
	switch {
	case refused && !errors.Is(err, nats.ErrPermissionViolation):
		t.Errorf("not refused: %v", err)
	case !refused && err != nil:
		t.Errorf("refused: %v", err)
	}
}

// An agent answers who asked it, as often as it needs, and only them.
func TestAgentRepliesOnlyToRequests(t *testing.T) {
	t.Parallel()
	b := startBus(t, nil)
	agent, deployer := b.agent(t, "router/0"), b.deployer(t)
	requests, err := agent.SubscribeSync(api.Subject("router/0", api.MethodLog))
	must(t, err)
	must(t, settle(t, agent))

	reply := deployer.NewInbox()
	answers, err := deployer.SubscribeSync(reply)
	must(t, err)
	must(t, deployer.PublishRequest(api.Subject("router/0", api.MethodLog), reply, nil))
	request, err := requests.NextMsg(testTimeout)
	must(t, err)
	for range 3 {
		must(t, request.Respond([]byte("line")))
	}
	must(t, settle(t, agent))
	for range 3 {
		_, err := answers.NextMsg(testTimeout)
		must(t, err)
	}
	must(t, agent.Publish(deployer.NewInbox(), nil))
	checkRefused(t, settle(t, agent), true)
}

// Accounts are separate: components hear nothing of the agents.
func TestAccountsAreSeparate(t *testing.T) {
	t.Parallel()
	b := startBus(t, nil)
	agent, deployer, component, another := b.agent(t, "router/0"), b.deployer(t), b.component(t), b.component(t)

	heard, err := component.SubscribeSync(">")
	must(t, err)
	must(t, settle(t, component))
	asked, err := agent.SubscribeSync(api.Subject("router/0", api.MethodSubmit))
	must(t, err)
	must(t, settle(t, agent))

	must(t, agent.Publish(api.HeartbeatSubject("router/0"), []byte("{}")))
	must(t, settle(t, agent))
	must(t, deployer.Publish("router.register", nil))
	must(t, settle(t, deployer))
	must(t, component.Publish(api.Subject("router/0", api.MethodSubmit), []byte("component")))
	must(t, settle(t, component))
	must(t, another.Publish("router.register", []byte("mine")))
	must(t, settle(t, another))

	// The component's own message comes first, then what the other component
	// published; nothing of agent and deployer.
	for _, want := range []string{api.Subject("router/0", api.MethodSubmit), "router.register"} {
		message, err := heard.NextMsg(testTimeout)
		must(t, err)
		if message.Subject != want || (want == "router.register" && string(message.Data) != "mine") {
			t.Errorf("component heard %s %q, want %s", message.Subject, message.Data, want)
		}
	}
	must(t, deployer.Publish(api.Subject("router/0", api.MethodSubmit), []byte("deployer")))
	message, err := asked.NextMsg(testTimeout)
	must(t, err)
	if string(message.Data) != "deployer" {
		t.Errorf("the agent was asked %q", message.Data)
	}

	must(t, component.Publish("$SYS.REQ.ACCOUNT.PING.CONNZ", nil))
	checkRefused(t, settle(t, component), true)
}

func TestAdmission(t *testing.T) {
	t.Parallel()
	b := startBus(t, nil)
	agent, deployer := api.AgentIdentity(testDeployment, "router/0"), api.DeployerIdentity(testDeployment)
	clientUse := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}

	for _, c := range []struct {
		name     string
		options  []nats.Option
		admitted bool
	}{
		{"agent", []nats.Option{b.ca.client(t, agent)}, true},
		{"deployer", []nats.Option{b.ca.client(t, deployer)}, true},
		{"component", []nats.Option{nats.UserInfo("nats", testPassword)}, true},
		{"component with a nameless certificate", []nats.Option{b.ca.client(t), nats.UserInfo("nats", testPassword)}, true},

		{"nothing", nil, false},
		{"wrong password", []nats.Option{nats.UserInfo("nats", "wrong")}, false},
		{"no password", []nats.Option{nats.UserInfo("nats", "")}, false},
		{"wrong user", []nats.Option{nats.UserInfo("root", testPassword)}, false},
		{"password as token", []nats.Option{nats.Token(testPassword)}, false},
		{"nameless certificate alone", []nats.Option{b.ca.client(t)}, false},
		{"another CA", []nats.Option{newAuthority(t).client(t, agent)}, false},
		{"another CA, right password", []nats.Option{newAuthority(t).client(t, agent), nats.UserInfo("nats", testPassword)}, false},
		{"expired", []nats.Option{b.ca.clientFrom(t, &x509.Certificate{NotAfter: time.Now().Add(-time.Minute), ExtKeyUsage: clientUse}, agent)}, false},
		{"not yet valid", []nats.Option{b.ca.clientFrom(t, &x509.Certificate{NotBefore: time.Now().Add(30 * time.Minute), ExtKeyUsage: clientUse}, agent)}, false},
		{"for servers", []nats.Option{b.ca.clientFrom(t, &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, agent)}, false},
		{"another deployment", []nats.Option{b.ca.client(t, api.AgentIdentity("another", "router/0"))}, false},
		{"another deployment's deployer", []nats.Option{b.ca.client(t, api.DeployerIdentity("another"))}, false},
		{"another deployment, right password", []nats.Option{b.ca.client(t, api.DeployerIdentity("another")), nats.UserInfo("nats", testPassword)}, false},
		{"two identities", []nats.Option{b.ca.client(t, agent, deployer)}, false},
		{"wildcard instance", []nats.Option{b.ca.client(t, api.AgentIdentity(testDeployment, "*/0"))}, false},
		{"instance with a dot", []nats.Option{b.ca.client(t, api.AgentIdentity(testDeployment, "router.1/0"))}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, err := b.dial(t, c.options...)
			// Under TLS 1.3 a client learns after its handshake that its certificate
			// was refused.
			if err == nil {
				err = conn.FlushTimeout(testTimeout)
			}
			if (err == nil) != c.admitted {
				t.Errorf("admitted is %v: %v", err == nil, err)
			}
		})
	}
}

// An agent reads packages, and nothing else, with direct gets.
func TestAgentReadsPackages(t *testing.T) {
	t.Parallel()
	b := startBus(t, nil)
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	js, err := jetstream.New(b.deployer(t))
	must(t, err)
	store, err := js.CreateObjectStore(ctx, jetstream.ObjectStoreConfig{Bucket: api.PackageBucket, MaxBytes: 32 << 20})
	must(t, err)
	_, err = js.CreateObjectStore(ctx, jetstream.ObjectStoreConfig{Bucket: "other", MaxBytes: 1 << 20})
	must(t, err)
	content := make([]byte, 300_000)
	for i := range content {
		content[i] = byte(i * i >> 3)
	}
	const name = "0123abcd"
	_, err = store.PutBytes(ctx, name, content)
	must(t, err)

	agent := b.agent(t, "router/0")
	get := func(body map[string]any) *nats.Msg {
		t.Helper()
		text, err := json.Marshal(body)
		must(t, err)
		message, err := agent.RequestWithContext(ctx, "$JS.API.DIRECT.GET.OBJ_"+api.PackageBucket, text)
		must(t, err)
		if status := message.Header.Get("Status"); status != "" {
			t.Fatalf("direct get %s: %s %s", text, status, message.Header.Get("Description"))
		}
		return message
	}
	metaSubject := "$O." + api.PackageBucket + ".M." + base64.URLEncoding.EncodeToString([]byte(name))
	for _, meta := range []*nats.Msg{
		get(map[string]any{"last_by_subj": metaSubject}),
		func() *nats.Msg {
			message, err := agent.RequestWithContext(ctx, "$JS.API.DIRECT.GET.OBJ_"+api.PackageBucket+"."+metaSubject, nil)
			must(t, err)
			return message
		}(),
	} {
		var info jetstream.ObjectInfo
		must(t, json.Unmarshal(meta.Data, &info))
		var read []byte
		sequence := 0
		for range info.Chunks {
			chunk := get(map[string]any{"next_by_subj": "$O." + api.PackageBucket + ".C." + info.NUID, "seq": sequence + 1})
			read = append(read, chunk.Data...)
			_, err := fmt.Sscan(chunk.Header.Get("Nats-Sequence"), &sequence)
			must(t, err)
		}
		if string(read) != string(content) {
			t.Errorf("read %d bytes that differ from the %d published", len(read), len(content))
		}
	}
	must(t, settle(t, agent))

	must(t, agent.Publish("$JS.API.DIRECT.GET.OBJ_other", nil))
	checkRefused(t, settle(t, agent), true)
}

// The deployer's certificate admits to each account, by the user's name; an agent's
// name changes nothing.
func TestDeployerChoosesItsAccount(t *testing.T) {
	t.Parallel()
	b := startBus(t, nil)
	account := func(conn *nats.Conn) string {
		t.Helper()
		answer, err := conn.Request("$SYS.REQ.USER.INFO", nil, 30*time.Second)
		must(t, err)
		var info struct{ Data struct{ Account string } }
		must(t, json.Unmarshal(answer.Data, &info))
		return info.Data.Account
	}
	for user, want := range map[string]string{"": "AGENTS", "agents": "AGENTS", "components": "COMPONENTS", "system": "$SYS"} {
		if got := account(b.connect(t, b.ca.client(t, api.DeployerIdentity(testDeployment)), nats.UserInfo(user, ""))); got != want {
			t.Errorf("user %q is in %s, want %s", user, got, want)
		}
	}
	if conn, err := b.dial(t, b.ca.client(t, api.DeployerIdentity(testDeployment)), nats.UserInfo("nobody", "")); err == nil {
		conn.Close()
		t.Error("an unknown account is admitted")
	}
	agent := b.connect(t, b.ca.client(t, api.AgentIdentity(testDeployment, "web/0")), nats.UserInfo("system", ""))
	must(t, agent.Publish("$SYS.REQ.SERVER.PING", nil))
	if err := settle(t, agent); err == nil {
		t.Error("an agent can ask the servers")
	}
}

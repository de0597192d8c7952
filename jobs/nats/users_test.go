package nats

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/nats-io/nats.go"
	"pgregory.net/rapid"

	"github.com/clusterworks/deploy/jobs/component/componenttest"
	"github.com/clusterworks/deploy/manifests"
)

// platform is a manifest with all jobs of this project that use the bus, and one that
// has no bus block.
const platform = `
deployment "cf" { domain = "cf.localhost" }
infrastructure "local" {}
group "nats" {
  job "nats" {
    properties { password = "` + testPassword + `" }
  }
}
group "postgres" {
  job "postgres" {
    properties { password = "x" }
  }
}
group "router" {
  instances = 2
  job "router" {}
}
group "controller" {
  job "cloud_controller" {
    properties {
      external_uri = "api.cf.localhost"
      secret       = "a long secret"
    }
  }
  job "health_manager" {}
}
group "stager" {
  job "stager" {
    properties { queues = ["staging", "large"] }
  }
}
group "dea" {
  instances = 2
  job "dea" {}
}
group "dns" {
  job "dns" {}
}
`

// TestSharedUserIsClosed: the shared user is admitted if a job needs it, where an
// earlier version made the deployment, and as the manifest says.
func TestSharedUserIsClosed(t *testing.T) {
	const needy = `
group "needy" {
  job "needy" {}
}
`
	for name, tc := range map[string]struct {
		more, property string
		earlier        bool
		want           string
	}{
		"a new deployment":                 {"", "", false, "false"},
		"a job without a bus block":        {needy, "", false, "true"},
		"made by an earlier version":       {"", "", true, "true"},
		"the manifest closes it":           {needy, "shared_user = false", true, "false"},
		"the manifest opens it":            {"", "shared_user = true", false, "true"},
		"the manifest leaves it undecided": {"", "shared_user = null", false, "false"},
	} {
		folder := t.TempDir()
		jobs := filepath.Join(folder, "jobs")
		must(t, os.Mkdir(jobs, 0o700))
		component, err := filepath.Abs("../component")
		must(t, err)
		must(t, os.Symlink(component, filepath.Join(jobs, "component"))) // bases
		for _, pattern := range []string{"../*/job.hcl", "testdata/jobs/*/job.hcl"} {
			found, err := filepath.Glob(pattern)
			must(t, err)
			for _, file := range found {
				at, err := filepath.Abs(filepath.Dir(file))
				must(t, err)
				must(t, os.Symlink(at, filepath.Join(jobs, filepath.Base(at))))
			}
		}
		text := strings.Replace(platform+tc.more, `properties { password`, "properties {\n"+tc.property+"\npassword", 1)
		text = strings.Replace(text, testPassword+`" }`, testPassword+"\"\n}", 1)
		must(t, os.WriteFile(filepath.Join(folder, "cluster.hcl"), []byte(text), 0o600))
		manifest, diags := manifests.Load(os.DirFS(folder), "cluster.hcl", manifests.Options{Jobs: os.DirFS(jobs)})
		mustBeFine(t, diags)
		job := manifest.Group("nats").Jobs[0]
		vars, diags := manifest.JobContext(manifests.Facts{DeploymentID: testDeployment, Earlier: tc.earlier}, "nats", 0, job)
		mustBeFine(t, diags)
		source, err := os.ReadFile("templates/nats.yml")
		must(t, err)
		line := regexp.MustCompile(`(?m)^shared_user: .*$`).Find(source)
		expression, diags := hclsyntax.ParseTemplate(line, "nats.yml", hcl.InitialPos)
		mustBeFine(t, diags)
		if got := evaluate(t, expression, vars); got != "shared_user: "+tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
}

// busUsers are the users that the deployer makes of the platform's job.hcl files.
func busUsers(t *testing.T) []User {
	t.Helper()
	folder := t.TempDir()
	must(t, os.WriteFile(filepath.Join(folder, "cluster.hcl"), []byte(platform), 0o600))
	manifest, diags := manifests.Load(os.DirFS(folder), "cluster.hcl", manifests.Options{Jobs: os.DirFS("..")})
	mustBeFine(t, diags)
	vars, diags := manifest.JobContext(manifests.Facts{}, "nats", 0, manifest.Group("nats").Jobs[0])
	mustBeFine(t, diags)
	var list []User
	for _, v := range vars.Variables["bus"].GetAttr("users").AsValueSlice() {
		texts := func(name string) (out []string) {
			for _, s := range v.GetAttr(name).AsValueSlice() {
				out = append(out, s.AsString())
			}
			return out
		}
		seconds, _ := v.GetAttr("answer_seconds").AsBigFloat().Float64()
		list = append(list, User{
			Group: v.GetAttr("group").AsString(), Job: v.GetAttr("job").AsString(),
			Publish: texts("publish"), Subscribe: texts("subscribe"), AnswerSeconds: seconds,
		})
	}
	return list
}

// startWithUsers runs the server with a table of users; the shared user is admitted
// if shared is set.
func startWithUsers(t *testing.T, table []User, shared bool) *bus {
	t.Helper()
	file := filepath.Join(t.TempDir(), "users.json")
	writeUsers(t, file, table)
	return startBus(t, func(c *Config) { c.UsersFile, c.SharedUser = file, shared })
}

func writeUsers(t *testing.T, file string, table []User) {
	t.Helper()
	text, err := json.Marshal(table)
	must(t, err)
	must(t, os.WriteFile(file, text, 0o600))
}

// user connects as an instance of a job.
func (b *bus) user(t *testing.T, group string, index int, job, client string) *nats.Conn {
	t.Helper()
	name := manifests.BusUser(group, index, job)
	return b.connect(t, nats.UserInfo(name, manifests.BusPassword(testPassword, name)), nats.Name(client), nats.CustomInboxPrefix(InboxPrefix(name)))
}

// Each job's user may do what its job.hcl says and nothing else: every subject of the
// platform is tried by every job, in both directions.
func TestUsersHaveTheirTableOnly(t *testing.T) {
	t.Parallel()
	table := busUsers(t)
	if len(table) != 6 {
		t.Fatalf("%d jobs have users, want 6: %+v", len(table), table)
	}
	b := startWithUsers(t, table, false)
	const client = "Test 0-0123456789abcdef"
	subjects := map[string]bool{}
	for _, u := range table {
		for _, s := range append(slices.Clone(u.Publish), u.Subscribe...) {
			subjects[strings.NewReplacer("{uuid}", "0-0123456789abcdef", "*", "any").Replace(s)] = true
		}
		subjects[InboxPrefix(u.Group+".0."+u.Job)+".x.y"] = true
		subjects[InboxPrefix(u.Group+".1."+u.Job)+".x.y"] = true
	}
	for _, s := range []string{
		announceSubject, discoverSubject, "anything", "_INBOX.x.y", "_INBOX_agent.router.0.x", "dea.1-0123456789abcdef.start",
		"$SYS.REQ.USER.INFO", "$SYS.REQ.SERVER.PING", "$JS.API.INFO", "$SRV.PING", "heartbeat.router.0", "agent.router.0.submit", "router.register.x", "router",
	} {
		subjects[s] = true
	}
	wildcards := []string{">", "*", "*.>", "*.*", "*.*.*", "dea.>", "dea.*", "dea.*.start", "router.>", "router.*", "healthmanager.>",
		"cloudcontroller.>", "cloudcontrollers.>", "_INBOX.>", "_INBOX_component.>", "_INBOX_component.*.0.*.>", "$SYS.>", "$JS.>"}
	allowed := func(list []string, subject string) bool {
		return slices.ContainsFunc(list, func(pattern string) bool { return covers(pattern, subject) })
	}
	for _, u := range table {
		may := u.Permissions(u.Group+".0."+u.Job, client)
		t.Run(u.Job, func(t *testing.T) {
			refusals := make(chan error, 1000)
			conn := b.user(t, u.Group, 0, u.Job, client)
			conn.SetErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refusals <- err })
			// A refusal comes before the answer to the flush that follows; its handler
			// runs a moment later.
			refused := func(want bool, what string) {
				t.Helper()
				must(t, conn.FlushTimeout(testTimeout))
				wait := 20 * time.Millisecond
				if want {
					wait = testTimeout
				}
				select {
				case err := <-refusals:
					if !want {
						t.Errorf("%s is refused: %v", what, err)
					}
				case <-time.After(wait):
					if want {
						t.Errorf("%s is not refused", what)
					}
				}
			}
			for subject := range subjects {
				must(t, conn.Publish(subject, nil))
				refused(!allowed(may.Publish.Allow, subject), "publish "+subject)
			}
			for _, subject := range append(wildcards, slices.Collect(mapKeys(subjects))...) {
				sub, err := conn.SubscribeSync(subject)
				must(t, err)
				refused(!allowed(may.Subscribe.Allow, subject), "subscribe "+subject)
				_ = sub.Unsubscribe()
			}
		})
	}
}

func mapKeys(m map[string]bool) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// covers reports whether all that subject matches is matched by pattern.
func covers(pattern, subject string) bool {
	p, s := strings.Split(pattern, "."), strings.Split(subject, ".")
	for i, token := range p {
		switch {
		case token == ">":
			return i < len(s)
		case i >= len(s), s[i] == ">", token != "*" && token != s[i]:
			return false
		}
	}
	return len(p) == len(s)
}

// A DEA gets its own start documents and no other's, whatever it calls itself.
func TestStartDocumentsAreOneDEAsOnly(t *testing.T) {
	t.Parallel()
	b := startWithUsers(t, busUsers(t), false)
	for _, c := range []struct {
		client, subject string
		allowed         bool
	}{
		{"DEA 1-0123456789abcdef", "dea.1-0123456789abcdef.start", true},
		{"DEA 1-0123456789abcdef", "dea.0-0123456789abcdef.start", false},
		{"DEA 1-0123456789abcdef", "dea.*.start", false},
		{"DEA 0-0123456789abcdef", "dea.0-0123456789abcdef.start", false}, // another's index
		{"DEA *", "dea.*.start", false},
		{"DEA 1-*", "dea.1-*.start", false},
		{"DEA >", "dea.>", false},
		{"", "dea.1-0123456789abcdef.start", false},
	} {
		conn := b.user(t, "dea", 1, "dea", c.client)
		_, err := conn.SubscribeSync(c.subject)
		must(t, err)
		t.Log(c.client, c.subject)
		checkRefused(t, settle(t, conn), !c.allowed)
	}
}

// Who is asked may answer, also with many messages; who is not asked may not, and
// nobody hears the answers to others.
func TestUsersAnswerWhoAsked(t *testing.T) {
	t.Parallel()
	b := startWithUsers(t, busUsers(t), false)
	controller := b.user(t, "controller", 0, "cloud_controller", "")
	dea := b.user(t, "dea", 0, "dea", "")
	_, err := dea.Subscribe("dea.find.droplet", func(m *nats.Msg) {
		for range 3 {
			must(t, m.Respond([]byte("here")))
		}
	})
	must(t, err)
	must(t, settle(t, dea))
	inbox := controller.NewInbox()
	answers, err := controller.SubscribeSync(inbox)
	must(t, err)
	must(t, controller.PublishRequest("dea.find.droplet", inbox, nil))
	for range 3 {
		_, err := answers.NextMsg(testTimeout)
		must(t, err)
	}
	must(t, settle(t, controller))
	must(t, dea.Publish(controller.NewInbox(), []byte("unasked")))
	checkRefused(t, settle(t, dea), true)
}

// Components of an earlier version have the shared user: they stay connected, and may
// connect again, while the others are updated; then it is closed.
func TestSharedUserUntilAllAreUpdated(t *testing.T) {
	t.Parallel()
	b := startWithUsers(t, busUsers(t), true)
	old := b.component(t)
	registered, err := old.SubscribeSync("router.register")
	must(t, err)
	must(t, settle(t, old))
	updated := b.user(t, "dea", 0, "dea", "DEA 0-0123456789abcdef")
	must(t, updated.Publish("router.register", []byte("{}")))
	must(t, settle(t, updated))
	_, err = registered.NextMsg(testTimeout)
	must(t, err)

	closed := startWithUsers(t, busUsers(t), false)
	if _, err := closed.dial(t, nats.UserInfo("nats", testPassword)); err == nil {
		t.Error("the shared user is admitted after it was closed")
	}
	// Nobody can do with the password what its user may not: an own user's password
	// does not tell the shared one, nor another's.
	own := manifests.BusPassword(testPassword, "dea.0.dea")
	for _, user := range []string{"nats", "dea.1.dea", "controller.0.cloud_controller", "router.0.router", "dea.0.router", "dea.00.dea"} {
		if _, err := closed.dial(t, nats.UserInfo(user, own)); err == nil {
			t.Errorf("the password of dea.0.dea admits %s", user)
		}
	}
	if _, err := closed.dial(t, nats.UserInfo("other.0.dea", manifests.BusPassword(testPassword, "other.0.dea"))); err == nil {
		t.Error("a group that is not there is admitted")
	}
}

// A server that hangs is found: its kernel takes connections, and nobody answers.
func TestHungServerIsFound(t *testing.T) {
	t.Parallel()
	b := startBus(t, func(c *Config) { c.Port, c.SharedUser = componenttest.FreePort(t), false })
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	must(t, Answers(ctx, b.cfg))
	must(t, Verify(ctx, b.cfg)) // a reload is seen without the shared user, too
	check := b.connect(t, nats.UserInfo(checkUser, userPassword([]byte(testPassword), checkUser)))
	must(t, check.Publish("router.register", nil))
	checkRefused(t, settle(t, check), true)

	hung, err := net.Listen("tcp", "127.0.0.1:0") // accepted by the kernel only
	must(t, err)
	defer hung.Close()
	cfg := b.cfg
	cfg.Port = hung.Addr().(*net.TCPAddr).Port
	short, stop := context.WithTimeout(ctx, 500*time.Millisecond)
	defer stop()
	if err := Answers(short, cfg); err == nil {
		t.Error("a server that hangs answers")
	}
}

// A reload brings a new table to new connections; a table that cannot be used leaves
// the one before.
func TestUsersAreReloaded(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "users.json")
	entry := User{Group: "g", Job: "j", Publish: []string{"a"}, AnswerSeconds: 1}
	writeUsers(t, file, []User{entry})
	b := startBus(t, func(c *Config) { c.UsersFile = file })
	try := func(refused bool) {
		t.Helper()
		conn := b.user(t, "g", 0, "j", "")
		must(t, conn.Publish("b", nil))
		checkRefused(t, settle(t, conn), refused)
	}
	before := b.user(t, "g", 0, "j", "")
	try(true)
	entry.Publish = append(entry.Publish, "b")
	writeUsers(t, file, []User{entry})
	must(t, b.Reload())
	try(false)
	for _, bad := range []User{
		{Group: "g", Job: "j", Publish: []string{"$SYS.>"}, AnswerSeconds: 1},
		{Group: "g", Job: "j", Publish: []string{"a b"}, AnswerSeconds: 1},
		{Group: "g", Job: "j", Subscribe: []string{">"}, AnswerSeconds: 1},
		{Group: "g", Job: "j", Subscribe: []string{"_INBOX_component.>"}, AnswerSeconds: 1},
		{Group: "g", Job: "j"},
	} {
		writeUsers(t, file, []User{bad})
		if err := b.Reload(); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
	try(false)
	must(t, before.Publish("a", nil))
	must(t, settle(t, before))
}

// What users.go repeats of manifests is what that says.
func TestUserNamesAgreeWithManifests(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		group := rapid.StringMatching(`[a-z][a-z0-9_-]{0,15}`).Draw(t, "group")
		job := rapid.StringMatching(`[a-z][a-z0-9_-]{0,15}`).Draw(t, "job")
		index := rapid.IntRange(0, 100_000).Draw(t, "index")
		shared := rapid.String().Draw(t, "shared")
		name := manifests.BusUser(group, index, job)
		table := []User{{Group: group, Job: job, AnswerSeconds: 1}}
		user, err := Admit(table, name, manifests.BusPassword(shared, name), fmt.Sprintf("X %d-0123456789", index), []byte(shared))
		if err != nil || user == nil || user.Username != name {
			t.Fatalf("%s is not admitted: %v", name, err)
		}
		if user, err := Admit(table, name, manifests.BusPassword(shared+"x", name), "", []byte(shared)); err == nil || user != nil {
			t.Fatal("another password is admitted")
		}
	})
}

// The agent's user for a job's routes registers and unregisters them, hears routers
// start, and can do nothing that other components can besides: no answer, no question,
// no announcement.
func TestRouteUsersMayRegisterOnly(t *testing.T) {
	table := []User{{
		Group: "web", Job: "guest-ROUTES", Publish: []string{"router.register", "router.unregister"}, Subscribe: []string{"router.start"},
		AnswerSeconds: 120, Exact: true,
	}}
	b := startWithUsers(t, table, true)
	heard := make(chan string, 16)
	everything := b.component(t)
	_, err := everything.Subscribe(">", func(m *nats.Msg) { heard <- m.Subject })
	must(t, err)
	must(t, everything.Flush())
	guest := b.user(t, "web", 3, "guest-ROUTES", "agent")
	got := make(chan string, 16)
	_, err = guest.Subscribe("router.start", func(m *nats.Msg) {
		must(t, m.Respond([]byte("x"))) // is refused: the next one shows it
		got <- m.Subject
	})
	must(t, err)
	for _, subject := range []string{"router.register", "router.unregister", "router.greet", announceSubject, "dea.heartbeat", "router.register"} {
		must(t, guest.Publish(subject, nil))
	}
	must(t, guest.Flush())
	for _, want := range []string{"router.register", "router.unregister", "router.register"} {
		select {
		case subject := <-heard:
			if subject != want {
				t.Errorf("got through: %s, want %s", subject, want)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("%s does not get through", want)
		}
	}
	must(t, everything.PublishRequest("router.start", "answers.of.guests", nil))
	select {
	case <-got:
	case <-time.After(30 * time.Second):
		t.Fatal("it does not hear routers start")
	}
	must(t, guest.Publish("router.unregister", nil))
	must(t, guest.Flush())
	for _, want := range []string{"router.start", "router.unregister"} {
		select {
		case subject := <-heard:
			if subject != want {
				t.Errorf("got through: %s, want %s", subject, want)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("%s does not get through", want)
		}
	}
	for _, subject := range []string{"router.register", "dea.>", discoverSubject, InboxPrefix(manifests.BusUser("web", 3, "guest-ROUTES")) + ".>"} {
		if sub, err := guest.SubscribeSync(subject); err == nil {
			must(t, guest.Flush())
			must(t, everything.Publish(strings.ReplaceAll(subject, ">", "x"), nil))
			must(t, everything.Flush())
			if m, err := sub.NextMsg(200 * time.Millisecond); err == nil {
				t.Errorf("it hears %s", m.Subject)
			}
		}
	}
}

// Heartbeats cross over to those components whose bus block names them: not to the
// shared user, and nobody of the components can say one.
func TestHeartbeatsAreForThoseWhoAskForThem(t *testing.T) {
	b := startWithUsers(t, []User{
		{Group: "dns", Job: "dns", Subscribe: []string{heartbeatWildcard}, AnswerSeconds: 120},
		{Group: "bad", Job: "bad", Publish: []string{"bad"}, AnswerSeconds: 120},
	}, true)
	listener, shared, bad, agent := b.user(t, "dns", 0, "dns", "DNS 0-0123456789abcdef"), b.component(t), b.user(t, "bad", 0, "bad", "Bad"), b.agent(t, "router/0")
	beats, err := listener.SubscribeSync(heartbeatWildcard)
	must(t, err)
	must(t, settle(t, listener))
	all, err := shared.SubscribeSync(">")
	must(t, err)
	must(t, settle(t, shared))
	for _, forger := range []*nats.Conn{b.component(t), b.user(t, "bad", 0, "bad", "Forger")} {
		must(t, forger.Publish("heartbeat.router.0", []byte("forged")))
		checkRefused(t, settle(t, forger), true)
	}
	must(t, agent.Publish("heartbeat.router.0", []byte("true")))
	must(t, settle(t, agent))
	m, err := beats.NextMsg(testTimeout)
	must(t, err)
	if string(m.Data) != "true" || m.Subject != "heartbeat.router.0" {
		t.Errorf("heard %s on %s", m.Data, m.Subject)
	}
	must(t, bad.Publish("bad", nil))
	must(t, settle(t, bad))
	m, err = all.NextMsg(testTimeout)
	must(t, err)
	if m.Subject != "bad" {
		t.Errorf("the shared user hears %s", m.Subject)
	}
}

package cloudcontroller

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// tenantCalls is the number of calls that TestTwoTenants makes, unless TENANT_CALLS says more.
const tenantCalls = 1500

// endpoint is a method and a path with {names}.
type endpoint struct{ method, path string }

// endpoints reads all endpoints from the sources that declare them, so that a new one
// is tried without a word here.
func endpoints(t *testing.T) []endpoint {
	t.Helper()
	pattern := regexp.MustCompile(`\b(?:handle|user|app|userJSON)\("(?:([A-Z]+) )?(/[^"]*)"`)
	var found []endpoint
	err := filepath.WalkDir("internal", func(file string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			return err
		}
		text, err := os.ReadFile(file)
		for _, m := range pattern.FindAllStringSubmatch(string(text), -1) {
			if m[2] != "/" {
				found = append(found, endpoint{m[1], m[2]})
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	// Those that are declared in loops.
	for _, one := range []string{"/services/v1/offerings/{label}", "/services/v1/offerings/{label}/{provider}"} {
		found = append(found, endpoint{"GET", one}, endpoint{"DELETE", one}, endpoint{"GET", one + "/handles"}, endpoint{"POST", one + "/handles/{id}"})
	}
	for _, one := range []endpoint{{"GET", "/url/snapshots/{id}"}, {"POST", "/uploads"}, {"PUT", "/url"}, {"PUT", "/data"}} {
		found = append(found, endpoint{one.method, "/services/v1/configurations/{alias}/serialized" + one.path})
	}
	return found
}

// identifiers describe what one can name of a tenant, by kind.
type identifiers map[string][]string

// TestTwoTenants walks every endpoint with another tenant's identifiers. What comes
// back holds nothing of hers, and is what comes back for identifiers that nobody has;
// what she sees stays the same.
func TestTwoTenants(t *testing.T) {
	t.Parallel()
	calls := tenantCalls
	if more, err := strconv.Atoi(os.Getenv("TENANT_CALLS")); err == nil {
		calls = more
	}
	w := newWorld(t)
	c := w.start("app_limits: {instances: 100, memory_min: 1, disk: 2048, fds: 4096}\ndefault_account_capacity: {memory: 1000000, app_uris: 16, services: 16, apps: 1000}\n")
	d := w.dea("d")
	w.anyStager()
	alice, bob := c.register("alice@example.com"), c.register("bob@example.com")

	// What must never come back: values of hers that Bob does not say himself.
	const variable, content = "ALICES-VARIABLE-c0ffee", "ALICES-FILE-c0ffee"
	file := content + strings.Repeat("x", 70_000)
	app := alice.running(d, "hers", 1)
	alice.upload("hers", zipOf(t, map[string]string{"secret": file}), "[]").want(200)
	alice.put("hers", map[string]any{"env": []string{"SECRET=" + variable}}).want(200)
	secrets := []string{variable, content, alice.token, `"owner":"alice`}

	hers := identifiers{
		"app": {"hers"}, "email": {"alice@example.com"}, "instance": {"0", "d-0", app.DropletHash},
		"path": {"secret", "logs/stdout.log", "../../"}, "id": {"1", "2"}, "name": {"hers", "hers-db"}, "label": {"hers-1.0"},
		"sha1": {sum([]byte(file)), app.DropletHash}, "host": {"hers.cf.localhost"}, "kind": {"droplet", "package"}, "upload": {app.DropletHash[:32]}, "size": {strconv.Itoa(len(file))},
	}
	ghost := identifiers{
		"app": {"none"}, "email": {"nobody@example.com"}, "instance": {"0", "d-0", strings.Repeat("0", 32)},
		"path": {"secret", "logs/stdout.log", "../../"}, "id": {"1", "2"}, "name": {"none", "none-db"}, "label": {"none-1.0"},
		"sha1": {strings.Repeat("1", 40), strings.Repeat("2", 40)}, "host": {"none.cf.localhost"}, "kind": {"droplet", "package"}, "upload": {strings.Repeat("0", 32)}, "size": {strconv.Itoa(len(file))},
	}
	view := func() string {
		var all strings.Builder
		for _, path := range []string{"/apps", "/apps/hers", "/apps/hers/instances", "/users/alice@example.com", "/services", "/domains"} {
			a := alice.call("GET", path, nil)
			fmt.Fprintln(&all, path, a.Status, a.Body)
		}
		return all.String()
	}
	before, password := view(), passwordOf(t, c, "alice@example.com")

	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	all := endpoints(t)
	if len(all) < 35 {
		t.Fatalf("only %d endpoints found: %v", len(all), all)
	}
	tried := map[endpoint]int{}
	leaks := 0
	for n := 0; n < calls && leaks < 10; n++ {
		one := func(of identifiers) (answer, string) {
			random := rand.New(rand.NewPCG(seed, uint64(n)))
			at := all[n%len(all)]
			tried[at]++
			method, path, body, header := request(random, at, of)
			caller := &client{c: c, token: bob.token, outside: random.IntN(4) > 0}
			switch random.IntN(8) {
			case 0:
				caller.token = ""
			case 1:
				caller.as = of["email"][0]
			case 2:
				header.Set("Authorization", "Basic "+of["app"][0])
			}
			a := caller.do(method, path, header, strings.NewReader(body))
			return a, method + " " + path + " " + body
		}
		clean := func() { // Bob may have made apps of these names himself
			for _, name := range []string{"hers", "none", "hers-db", "none-db"} {
				bob.call("DELETE", "/apps/"+name, nil)
			}
		}
		got, what := one(hers)
		clean()
		for _, secret := range secrets {
			if strings.Contains(got.Body, secret) || strings.Contains(fmt.Sprint(got.Header), secret) {
				leaks++
				t.Errorf("%s answers %d with %q: %.300s", what, got.Status, secret, got.Body)
			}
		}
		none, _ := one(ghost)
		clean()
		if public(what) {
			continue
		}
		if a, b := plain(got, hers), plain(none, ghost); a != b {
			leaks++
			t.Errorf("%s tells hers from nobody's:\n%s\n%s", what, a, b)
		}
	}
	for _, at := range all {
		if tried[at] == 0 {
			t.Errorf("%v was not tried", at)
		}
	}
	if after := view(); after != before {
		t.Errorf("what Alice sees has changed from\n%s\nto\n%s", before, after)
	}
	if now := passwordOf(t, c, "alice@example.com"); now != password {
		t.Error("Alice's password is another one")
	}
}

// passwordOf returns how a user's password is stored.
func passwordOf(t *testing.T, c *cc, email string) string {
	t.Helper()
	user, err := c.working().store.User(t.Context(), email)
	must(t, err)
	return fmt.Sprint(user.PasswordHash)
}

// request makes a call of an endpoint with identifiers.
func request(random *rand.Rand, at endpoint, of identifiers) (method, path, body string, header http.Header) {
	pick := func(kind string) string {
		list := of[kind]
		if len(list) == 0 {
			list = of["name"]
		}
		return list[random.IntN(len(list))]
	}
	method = at.method
	if method == "" || random.IntN(10) == 0 {
		method = []string{"GET", "PUT", "POST", "DELETE", "HEAD", "PATCH"}[random.IntN(6)]
	}
	path = regexp.MustCompile(`\{([a-z0-9_]+)[.]*\}`).ReplaceAllStringFunc(at.path, func(name string) string {
		return url.PathEscape(pick(strings.Trim(name, "{}.")))
	})
	switch random.IntN(6) {
	case 0:
		path += "?" + url.Values{"app": {pick("app")}, "user": {pick("email")}, "owner": {pick("email")}, "id": {pick("id")}}.Encode()
	case 1:
		path = strings.Replace(path, "/", "//", 1)
	case 2:
		path += "/"
	}
	document := map[string]any{
		"name": pick("name"), "uris": []string{}, "email": pick("email"), "owner": pick("email"), "password": "guessed by Bob", "id": pick("id"),
		"staging": map[string]any{"framework": "node", "runtime": nil}, "resources": map[string]int{"memory": 1}, "instances": 0,
		"services": []string{pick("name")}, "app_id": pick("id"), "meta": map[string]any{"version": 1}, "_method": "put", "state": "STOPPED",
	}
	if random.IntN(3) == 0 {
		delete(document, []string{"name", "services", "staging", "uris"}[random.IntN(4)])
	}
	text, _ := json.Marshal(document)
	body = string(text)
	if strings.HasSuffix(at.path, "/resources") || random.IntN(12) == 0 {
		body = fmt.Sprintf(`[{"sha1":%q,"size":%s,"fn":"stolen"}]`, pick("sha1"), pick("size"))
	}
	header = http.Header{"Content-Type": {"application/json"}}
	if method == "GET" || method == "HEAD" || random.IntN(20) == 0 {
		body = ""
	}
	return method, path, body, header
}

// public reports whether a call's answer may depend on whether something is there: an
// e-mail address, of which there is one account only, and the tries to log in to it.
func public(what string) bool {
	method, path, _ := strings.Cut(what, " ")
	path = strings.TrimLeft(path, "/")
	return strings.HasPrefix(path, "users") && (method == "POST" || method == "PATCH")
}

// plain is an answer without the identifiers that were said.
func plain(a answer, of identifiers) string {
	text := fmt.Sprint(a.Status, " ", a.Header.Get("Location"), " ", a.Body)
	var said []string
	for _, list := range of {
		said = append(said, list...)
	}
	slices.SortFunc(said, func(a, b string) int { return len(b) - len(a) })
	for _, s := range said {
		if len(s) > 2 {
			text = strings.ReplaceAll(text, s, "?")
			text = strings.ReplaceAll(text, url.PathEscape(s), "?")
		}
	}
	return regexp.MustCompile(`[0-9a-f]{8,}|"(id|created|updated_at|version|index)":[^,}]*|[0-9]{6,}`).ReplaceAllString(text, "#")
}

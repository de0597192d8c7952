package vmc

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/clusterworks/deploy/jobs/cloud_controller/client"
)

// TestExportImport: a user writes what is in a service to a file and puts a file in its
// place, which may be a dump of the service's own tool; what is damaged or not the user's is
// refused. The URL of a file opens it for who has it, and nothing else.
func TestExportImport(t *testing.T) {
	p := newPlatform(t)
	p.ok("register", "me@example.com")
	p.redis()
	file := filepath.Join(t.TempDir(), "db.export")
	own := filepath.Join(t.TempDir(), "commands")
	must(t, os.WriteFile(own, []byte("*3\r\n$3\r\nSET\r\n$4\r\nname\r\n$5\r\nvalue\r\n"), 0o600))
	p.fails("Replace all that is in db by "+own+"? There is no terminal to ask on: use --force", "import-service", "db", own)
	if out := p.ok("import-service", "db", own, "--force"); !strings.Contains(out, "Importing "+own+" into db: done") {
		t.Errorf("an import: %s", out)
	}
	if out := p.ok("export-service", "db", file); !strings.Contains(out, "of redis 7") || !strings.Contains(out, "sha256") {
		t.Errorf("an export: %s", out)
	}
	exported, err := os.ReadFile(file)
	must(t, err)
	if !strings.HasPrefix(string(exported), `{"service":"redis"`) || !strings.Contains(string(exported), "value") {
		t.Errorf("the file: %.300q", exported)
	}
	if out := p.ok("snapshots", "db"); !strings.Contains(out, "no snapshots") {
		t.Errorf("a snapshot is left: %s", out)
	}
	p.fails(file+" is there already", "export-service", "db", file)
	_, snapshot, _ := p.vmc("snapshot", "db")
	snapshot = strings.TrimSpace(snapshot)
	p.ok("import-service", "db", file, "--force")
	if out := p.ok("export-service", "db", file, "--force", "--snapshot", snapshot); !strings.Contains(out, "sha256") {
		t.Errorf("an export of a snapshot: %s", out)
	}
	again, err := os.ReadFile(file)
	must(t, err)
	if !bytes.Equal(exported, again) {
		t.Errorf("an export of what was imported is another: %.300q, %.300q", exported, again)
	}
	p.fails("there is no such snapshot", "export-service", "db", file+"2", "--snapshot", "9-none")

	damaged := filepath.Join(t.TempDir(), "damaged")
	must(t, os.WriteFile(damaged, append(bytes.Clone(exported[:len(exported)-1]), 'x'), 0o600))
	p.fails("its checksum is not that of its first line", "import-service", "db", damaged, "--force")
	must(t, os.WriteFile(damaged, exported[:len(exported)-5], 0o600))
	p.fails("the export is cut off", "import-service", "db", damaged, "--force")
	must(t, os.WriteFile(damaged, []byte("*2\r\n$6\r\nCONFIG\r\n$3\r\nGET\r\n"), 0o600))
	p.fails("the server refuses the file", "import-service", "db", damaged, "--force")

	// What the API gives: a URL that needs no login, for a while.
	token := ""
	must(t, changeSettings(func(s *settings) { token = s.Tokens["http://"+p.target] }))
	browser := &http.Client{Transport: &http.Transport{DialContext: (&client.Dialer{}).DialContext, DisableKeepAlives: true}}
	ask := func(method, path, token, body string) (int, string) {
		request, err := http.NewRequest(method, "http://"+p.target+path, strings.NewReader(body))
		must(t, err)
		request.Header.Set("Content-Type", "application/json")
		request.Header.Set("Authorization", token)
		answer, err := browser.Do(request)
		must(t, err)
		defer answer.Body.Close()
		var text bytes.Buffer
		_, err = text.ReadFrom(answer.Body)
		must(t, err)
		return answer.StatusCode, text.String()
	}
	of := "/services/v1/configurations/db/serialized"
	signed := func(method, path string) string {
		t.Helper()
		status, text := ask(method, path, token, "{}")
		var doc struct{ URL string }
		if status != 200 || json.Unmarshal([]byte(text), &doc) != nil {
			t.Fatalf("%s: %d %s", path, status, text)
		}
		_, path, _ = strings.Cut(strings.TrimPrefix(doc.URL, "http://"), "/")
		return "/" + path
	}
	export := signed("GET", of+"/url/snapshots/"+snapshot)
	if status, text := ask("GET", export, "", ""); status != 200 || text != string(exported) {
		t.Errorf("by the URL: %d, %.300q", status, text)
	}
	upload := signed("POST", of+"/uploads")
	if status, text := ask("PUT", upload, "", string(exported)); status != 200 || !strings.Contains(text, `"import"`) {
		t.Errorf("to the URL: %d %s", status, text)
	}
	anothers := func(path string) string { return regexp.MustCompile(`s/\d+/`).ReplaceAllString(path, "s/999/") }
	for what, tc := range map[string]struct{ method, path string }{
		"another snapshot":     {"GET", strings.Replace(export, snapshot, "2-ab", 1)},
		"another user":         {"GET", anothers(export)},
		"without a signature":  {"GET", strings.Split(export, "?")[0]},
		"longer":               {"GET", strings.Replace(export, "expires=", "expires=9", 1)},
		"another's upload":     {"PUT", anothers(upload)},
		"an export by another": {"PUT", strings.Replace(export, "/exports/", "/uploads/", 1)},
	} {
		if status, text := ask(tc.method, tc.path, "", "{}"); status != 403 && status != 404 && status != 405 {
			t.Errorf("%s: %d %s", what, status, text)
		}
	}
	if status, text := ask("PUT", of+"/url", token, `{"url":"http://127.0.0.1:1/"}`); status != 501 || !strings.Contains(text, "fetches no URLs") {
		t.Errorf("a URL to import from: %d %s", status, text)
	}

	p.ok("logout")
	p.ok("register", "friend@example.com")
	for _, command := range [][]string{{"export-service", "db", file + "3"}, {"export-service", "db", file + "3", "--snapshot", snapshot}, {"import-service", "db", file, "--force"}} {
		p.fails("Service not found", command...)
	}
	p.ok("login", "me@example.com")
	p.ok("delete-service", "db", "--force")
	if status, text := ask("GET", export, "", ""); status != 404 {
		t.Errorf("an export of a service that is gone: %d %s", status, text)
	}
}

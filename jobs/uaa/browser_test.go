package uaa

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/clusterworks/deploy/jobs/component/componenttest"
)

// browserTime bounds a browser that is started on a busy machine.
const browserTime = 5 * time.Minute

// browser is Chromium, by its DevTools protocol.
type browser struct {
	t    *testing.T
	ctx  context.Context
	conn *websocket.Conn
	page string // session
	last int
	said strings.Builder // the browser, of its pages
}

func startBrowser(t *testing.T) *browser {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), browserTime)
	process := exec.CommandContext(ctx, "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-port=0", "--user-data-dir="+t.TempDir(), "about:blank")
	process.WaitDelay = 10 * time.Second
	stderr, err := process.StderrPipe()
	must(t, err)
	must(t, process.Start())
	b := &browser{t: t, ctx: ctx}
	told := make(chan string, 1)
	read := make(chan struct{})
	go func() {
		defer close(read)
		lines := bufio.NewScanner(stderr)
		for lines.Scan() {
			if _, at, found := strings.Cut(lines.Text(), "DevTools listening on "); found {
				told <- at
			}
		}
		_ = lines.Err() // the browser has ended
	}()
	t.Cleanup(func() {
		if b.conn != nil {
			_ = b.conn.Write(ctx, websocket.MessageText, []byte(`{"id": 0, "method": "Browser.close"}`)) // or it is killed
			ended := make(chan struct{})
			go func() { <-read; close(ended) }()
			select {
			case <-ended:
			case <-time.After(10 * time.Second):
			}
			_ = b.conn.CloseNow()
		}
		cancel()
		<-read
		_ = process.Wait() // it was told to end
	})
	select {
	case at := <-told:
		b.conn, _, err = websocket.Dial(ctx, at, nil)
		must(t, err)
		b.conn.SetReadLimit(1 << 20)
	case <-ctx.Done():
		t.Fatal("the browser does not start")
	}
	target := b.call("Target.createTarget", map[string]any{"url": "about:blank"})
	b.page = b.call("Target.attachToTarget", map[string]any{"targetId": target["targetId"], "flatten": true})["sessionId"].(string)
	b.call("Log.enable", map[string]any{})
	return b
}

// call asks the browser, or its page.
func (b *browser) call(method string, params map[string]any) map[string]any {
	b.t.Helper()
	b.last++
	request := map[string]any{"id": b.last, "method": method, "params": params}
	if b.page != "" {
		request["sessionId"] = b.page
	}
	data, err := json.Marshal(request)
	must(b.t, err)
	must(b.t, b.conn.Write(b.ctx, websocket.MessageText, data))
	for {
		_, text, err := b.conn.Read(b.ctx)
		must(b.t, err)
		var answer struct {
			ID     int
			Result map[string]any
			Error  *struct{ Message string }
		}
		must(b.t, json.Unmarshal(text, &answer))
		if answer.ID != b.last {
			b.said.Write(text) // an event
			continue
		}
		if answer.Error != nil {
			b.t.Fatalf("%s: %s", method, answer.Error.Message)
		}
		return answer.Result
	}
}

// look evaluates an expression in the page, "" while there is none.
func (b *browser) look(expression string) string {
	b.t.Helper()
	result, _ := b.call("Runtime.evaluate", map[string]any{"expression": expression})["result"].(map[string]any)
	return fmt.Sprint(result["value"])
}

func (b *browser) open(at string) {
	b.t.Helper()
	b.call("Page.navigate", map[string]any{"url": at})
}

// key types a text into what has the focus.
func (b *browser) key(text string) {
	b.t.Helper()
	b.call("Input.insertText", map[string]any{"text": text})
}

func (b *browser) eventually(what, expression, want string) {
	b.t.Helper()
	componenttest.Eventually(b.t, what, func() bool { return strings.Contains(b.look(expression), want) })
}

// TestLoginInABrowser: a user logs in with a real browser for a program on the same
// machine, which listens on a port of its own: by the authorization code flow with PKCE.
// The page keeps its promises there: no scripts, no frames.
func TestLoginInABrowser(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.account("dev@example.com")

	// The program.
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	heard := make(chan url.Values, 10)
	program := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/callback":
			heard <- r.URL.Query()
			_, _ = io.WriteString(rw, "<title>Thank you</title>")
		case "/frame": // an evil page
			rw.Header().Set("Content-Type", "text/html")
			_, _ = io.WriteString(rw, `<title>evil</title><iframe id="f" src="`+r.URL.Query().Get("of")+`"></iframe>`)
		default:
			rw.WriteHeader(http.StatusNotFound)
		}
	})}
	served := make(chan error, 1)
	go func() { served <- program.Serve(listener) }()
	t.Cleanup(func() {
		program.Close()
		<-served
	})
	own := "http://" + listener.Addr().String()
	asked := asking("client_id", "vmc", "redirect_uri", own+"/callback", "scope", "openid email offline_access cloud_controller")

	b := startBrowser(t)
	b.open(w.url + pathAuthorize + "?" + asked.Encode())
	b.eventually("the login page", "document.title", "Log in")
	b.eventually("the page says who asks", "document.body.innerText", "vmc")
	b.eventually("the page has its style", "getComputedStyle(document.querySelector('button')).backgroundColor", "rgb(11, 87, 164)")
	if got := b.look("document.cookie"); got != "" {
		t.Errorf("scripts can read the cookie: %s", got)
	}
	// A script that got into the page would not run.
	b.look("{let s = document.createElement('script'); s.textContent = 'document.title = \"owned\"'; document.body.append(s)}")
	if got := b.look("document.title"); got != "Log in" {
		t.Errorf("a script runs in the page: %s", got)
	}
	b.look("document.querySelector('#email').focus()")
	b.key("dev@example.com")
	b.look("document.querySelector('#password').focus()")
	b.key("a guess")
	b.look("document.querySelector('button').click()")
	b.eventually("a wrong password is told", "document.body.innerText", "The password is wrong")
	b.look("document.querySelector('#password').focus()")
	b.key("secret of dev@example.com")
	b.look("document.querySelector('button').click()")
	b.eventually("the program's page", "document.title", "Thank you")
	back := <-heard
	if back.Get("state") != "a state" || back.Get("iss") != w.url || back.Get("code") == "" {
		t.Fatalf("the program hears %v", back)
	}
	tokens := w.post(pathToken, codeForm(back.Get("code"), "client_id", "vmc", "redirect_uri", own+"/callback"))
	if id, access := w.claims(tokens.field("id_token")), w.claims(tokens.field("access_token")); id["nonce"] != "a nonce" || id["email"] != "dev@example.com" || access["user_name"] != "dev@example.com" || tokens.field("refresh_token") == "" {
		t.Errorf("tokens %+v: %v, %v", tokens, id, access)
	}

	// In a frame of another page there is nothing to click on.
	b.open(own + "/frame?of=" + url.QueryEscape(w.url+pathAuthorize+"?"+asked.Encode()))
	b.eventually("the evil page", "document.title", "evil")
	componenttest.Eventually(t, "the browser refuses to frame the page", func() bool {
		b.look("1") // which brings what it has to say
		return strings.Contains(b.said.String(), "frame-ancestors")
	})
}

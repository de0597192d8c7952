package jobs_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clusterworks/deploy/jobs"
	"github.com/clusterworks/deploy/manifests"
)

// exchanged returns what an address answers to raw bytes, after interim answers. A
// drop after it, if there is one, is sent every 100 ms.
func exchanged(t *testing.T, address, request, drop string) (status int, header http.Header, body string) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	must(t, err)
	var sending sync.WaitGroup
	defer sending.Wait()
	defer conn.Close()
	must(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	// An answer may come, and the connection close, before all is sent.
	sending.Go(func() {
		_, err := io.WriteString(conn, request)
		for tick := time.NewTicker(100 * time.Millisecond); err == nil && drop != ""; <-tick.C {
			_, err = io.WriteString(conn, drop)
		}
	})
	in := bufio.NewReader(conn)
	for {
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			return 0, nil, err.Error()
		}
		if res.StatusCode == http.StatusContinue {
			continue
		}
		defer res.Body.Close()
		all, err := io.ReadAll(res.Body)
		if err != nil {
			all = append(all, (" and then " + err.Error())...)
		}
		for name, values := range res.Trailer {
			res.Header["Trailer-"+name] = values
		}
		return res.StatusCode, res.Header, string(all)
	}
}

// TestTimeoutsGrow: by default whoever is further inside gives up first, the
// controller's longest answer included, so that it says who was late.
func TestTimeoutsGrow(t *testing.T) {
	last := int64(0)
	for _, step := range [][2]string{{"cloud_controller", "max_staging_runtime_s"}, {"router", "answer_timeout_s"}, {"nginx", "answer_timeout_s"}} {
		job, diags := manifests.LoadJob(jobs.FS, step[0])
		mustBeFine(t, diags)
		at := slices.IndexFunc(job.Properties, func(p *manifests.Property) bool { return p.Name == step[1] })
		if at < 0 {
			t.Fatalf("job %s has no property %s", step[0], step[1])
		}
		seconds, _ := job.Properties[at].Default.AsBigFloat().Int64()
		if seconds < last+10 {
			t.Errorf("%s of job %s is %d s, the one inside %d s", step[1], step[0], seconds, last)
		}
		last = seconds
	}
}

// inWords returns how LIMITS.md may write a value of nginx's configuration.
func inWords(value string) []string {
	units := map[string][]string{"s": {" s"}, "m": {" minutes"}, "h": {" hours"}, "d": {" days"}, "k": {" KB"}, "": {""}}
	m := regexp.MustCompile(`^([0-9]+)([smhdk]?)$`).FindStringSubmatch(value)
	if m == nil {
		return nil
	}
	if m[1] == "1" && m[2] == "h" {
		return []string{"an hour"}
	}
	if m[1] == "1" && m[2] == "d" {
		return []string{"a day"}
	}
	number := m[1]
	if len(number) > 3 {
		number = number[:len(number)-3] + "," + number[len(number)-3:]
	}
	return []string{m[1] + units[m[2]][0], number + units[m[2]][0]}
}

// hasValues checks that the row of LIMITS.md that names a limit has its values.
func hasValues(t *testing.T, page, directive, values string) {
	t.Helper()
	for _, value := range strings.Fields(values) {
		words, found := inWords(value), false
		for row := range strings.Lines(page) {
			found = found || strings.Contains(row, "`"+directive) && slices.ContainsFunc(words, func(w string) bool { return strings.Contains(row, w) })
		}
		if words != nil && !found {
			t.Errorf("LIMITS.md does not say that %s is %s", directive, value)
		}
	}
}

// namesItsLimits checks that LIMITS.md names each limit that the rendered configuration
// sets, with its value, and no directive that it does not.
func namesItsLimits(t *testing.T, page, folder string) {
	t.Helper()
	set, named := map[string]bool{}, map[string]bool{}
	limit := regexp.MustCompile(`_(timeout|time|size|buffers|requests|streams|close)$`)
	// Of the test's own, or by name only: sizes of tables and what properties say.
	chosen := regexp.MustCompile(`^(client_(body|header)_timeout|client_max_body_size|proxy_(read|send)_timeout|.*_hash_.*)$`)
	for _, file := range []string{"nginx.conf", "proxy.conf"} {
		text, err := os.ReadFile(filepath.Join(folder, file))
		must(t, err)
		for _, m := range regexp.MustCompile(`(?m)^ *([a-z0-9_]+) ([^;{\n]*)`).FindAllStringSubmatch(string(text), -1) {
			set[m[1]] = true
			if limit.MatchString(m[1]) && !chosen.MatchString(m[1]) {
				hasValues(t, page, m[1], m[2])
			}
		}
	}
	for _, m := range regexp.MustCompile("`([a-z0-9]+_[a-z0-9_]+)").FindAllStringSubmatch(page, -1) {
		named[m[1]] = true
	}
	for directive := range set {
		if limit.MatchString(directive) && !named[directive] {
			t.Errorf("LIMITS.md does not name %s, which the configuration sets", directive)
		}
	}
	// Properties of the jobs, settings of a router, and a server's argument.
	ours := regexp.MustCompile(`^(answer_timeout_s|body_timeout|(client|host|instance)_(requests|uploads)|max_(body_mb|routes|fails)|tls_port|trusted_fronts)$`)
	for directive := range named {
		if !ours.MatchString(directive) && !set[directive] {
			t.Errorf("LIMITS.md names %s, which the configuration does not set", directive)
		}
	}
}

// TestLimits meets each row of LIMITS.md, through nginx and at a router, which
// must agree, or differ as the row says.
func TestLimits(t *testing.T) {
	page, err := os.ReadFile("nginx/LIMITS.md")
	must(t, err)
	rows := map[string]bool{}
	for _, row := range regexp.MustCompile(`(?m)^\| (\w[^|]*?) \|`).FindAllStringSubmatch(string(page), -1) {
		rows[row[1]] = row[1] == "what"
	}
	p := newPlatform(t, "answer_timeout: 1500ms\nbody_timeout: 500ms\nmax_body_mb: 1\n", "max_body_mb = 1\nanswer_timeout_s = 4",
		"client_body_timeout 30s", "client_body_timeout 400ms", "client_header_timeout 30s", "client_header_timeout 400ms")
	namesItsLimits(t, string(page), filepath.Join(p.dir, "generations", "1"))
	p.app("a.cf.localhost", saysHeaders)
	apps := 0
	app := func(answer string) (request string) {
		apps++
		host := fmt.Sprintf("app%d.cf.localhost", apps)
		if strings.HasSuffix(answer, "half") || answer == "" {
			p.app(host, then(answer))
		} else {
			p.app(host, says(answer))
		}
		return "GET / HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n"
	}
	get := func(line, headers string) string { return line + "\r\nHost: a.cf.localhost\r\n" + headers + "\r\n" }
	post := func(headers, body string) string { return get("POST / HTTP/1.1", headers) + body }
	long := func(n int) string { return "GET /" + strings.Repeat("a", n-len("GET / HTTP/1.1\r\n")) + " HTTP/1.1" }
	line := func(n int) string { return "A: " + strings.Repeat("a", n-len("A: \r\n")) + "\r\n" }
	empty := okHead + "Content-Length: 0\r\n\r\n"
	const kb = 1 << 10
	for _, tc := range []struct {
		row, request, drop string
		lb, router         int    // status; router 0: as lb, -1: it would take a minute
		says               string // in both answers, or headers "Name: value"
		lacks              string
	}{
		{"request line", get(long(32*kb-8), ""), "", 200, 0, "", ""},
		{"request line", get(long(32*kb+8), ""), "", 414, 0, "THE REQUEST LINE IS LARGER THAN 32 KB", ""},
		{"a header line", get("GET / HTTP/1.1", line(32*kb-8)), "", 200, 0, "", ""},
		{"a header line", get("GET / HTTP/1.1", line(32*kb+8)), "", 431, 0, "A HEADER IS LARGER THAN 32 KB", ""},
		{"all header lines", get("GET / HTTP/1.1", strings.Repeat(line(16*kb), 7)), "", 200, 0, "", ""},
		{"all header lines", get("GET / HTTP/1.1", strings.Repeat(line(16*kb+8), 8)), "", 431, 0, "128 KB TOGETHER", ""},
		{"number of header lines", get("GET / HTTP/1.1", strings.Repeat("A: a\r\n", 499)), "", 200, 0, "", ""},
		{"number of header lines", get("GET / HTTP/1.1", strings.Repeat("A: a\r\n", 501)), "", 431, 0, "MORE THAN 500 HEADERS", ""},
		{"request body", post(fmt.Sprintf("Content-Length: %d\r\n", 1<<20), strings.Repeat("x", 1<<20)), "", 200, 0, "", ""},
		{"request body", post(fmt.Sprintf("Content-Length: %d\r\n", 1<<20+1), ""), "", 413, 0, "LARGER THAN", ""},
		{"request body", post("Transfer-Encoding: chunked\r\n", "100001\r\n"+strings.Repeat("x", 1<<20+1)+"\r\n0\r\n\r\n"), "", 413, 0, "LARGER THAN", ""},
		{"time for a head", "GET / HTTP/1.1\r\nHost: a.cf.localhost\r\n", "A: a\r\n", 0, -1, "EOF", ""},
		{"pause in a body", post("Content-Length: 10\r\n", "half"), "", 0, 408, "", ""},
		{"names of headers", get("GET / HTTP/1.1", "X_Under: 1\r\nX.Dot: 2\r\n"), "", 200, 0, "X.dot: 2\r\nX_under: 1", ""},
		{"names of headers", get("GET / HTTP/1.1", "X Space: 1\r\n"), "", 400, 0, "", ""},
		{"names of headers", get("GET / HTTP/1.1", "X : 1\r\n"), "", 400, 0, "", ""},
		{"names of headers", get("GET / HTTP/1.1", "X(: 1\r\n"), "", 400, 0, "", ""},
		{"values of headers", get("GET / HTTP/1.1", "X: a\x00b\r\n"), "", 400, 0, "", ""},
		{"values of headers", get("GET / HTTP/1.1", "X: a\x01b\r\n"), "", 400, 0, "", ""},
		{"values of headers", get("GET / HTTP/1.1", "X: \xff\r\n"), "", 200, 0, "X: \xff", ""},
		{"folded headers", get("GET / HTTP/1.1", "X: a\r\n b\r\n"), "", 400, 200, "", ""},
		{"path", get("GET //a//b%2Fc?x=1;2 HTTP/1.1", ""), "", 200, 0, "GET //a//b%2Fc?x=1;2 HTTP/1.1", ""},
		{"path", get("GET /+a+b;c=1?d+e=%&f={} HTTP/1.1", ""), "", 200, 0, "GET /+a+b;c=1?d+e=%&f={} HTTP/1.1", ""},
		{"path", get("GET /\xc3\xa9#{|} HTTP/1.1", ""), "", 200, 0, "GET /%C3%A9%23%7B%7C%7D HTTP/1.1", ""},
		{"path", get("GET /a b HTTP/1.1", ""), "", 400, 0, "", ""},
		{"path", get("GET /a\tb HTTP/1.1", ""), "", 400, 0, "", ""},
		{"path", get("GET /a/%2e%2e/..%2fb HTTP/1.1", ""), "", 400, 0, "", ""},
		{"path", get("GET ?x=1 HTTP/1.1", ""), "", 400, 0, "", ""},
		{"path", get("GET /a/../x HTTP/1.1", ""), "", 200, 0, "GET /a/../x HTTP/1.1", ""},
		{"path", get("GET /../x HTTP/1.1", ""), "", 400, 0, "", ""},
		{"path", get("GET /%2e%2e/x HTTP/1.1", ""), "", 400, 0, "", ""},
		{"path", get("GET /a%00b HTTP/1.1", ""), "", 400, 0, "", ""},
		{"path", get("GET /a%zz HTTP/1.1", ""), "", 400, 0, "", ""},
		{"path", get("GET x HTTP/1.1", ""), "", 400, 0, "", ""},
		{"absolute target", "GET http://a.cf.localhost/x HTTP/1.1\r\nHost: elsewhere.test\r\n\r\n", "", 200, 0, "Host: a.cf.localhost\r\n", ""},
		{"absolute target", "GET http://elsewhere.test/x HTTP/1.1\r\nHost: a.cf.localhost\r\n\r\n", "", 404, 0, "404", ""},
		{"absolute target", "GET http://a.cf.localhost/healthz HTTP/1.1\r\nHost: " + strings.Split(p.routers[0].Address(), ":")[0] + "\r\n\r\n", "", 200, 0, "GET /healthz", ""},
		{"Host", "GET / HTTP/1.1\r\n\r\n", "", 400, 0, "", ""},
		{"Host", get("GET / HTTP/1.1", "Host: a.cf.localhost\r\n"), "", 400, 0, "", ""},
		{"Host", "GET / HTTP/1.1\r\nHost: user@a.cf.localhost\r\n\r\n", "", 400, 0, "", ""},
		{"Host", "GET / HTTP/1.1\r\nHost: elsewhere.test\r\n\r\n", "", 404, 0, "404", ""},
		{"Host", "GET / HTTP/1.1\r\nHost: a.cf.localhost:8080\r\n\r\n", "", 200, 0, "Host: a.cf.localhost:8080\r\n", ""},
		{"Host", "GET / HTTP/1.1\r\nHost: A.cf.LOCALHOST.:80\r\n\r\n", "", 200, 0, "X-Real-Ip", ""},
		{"Host", "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", "", 404, 0, "404", ""},
		{"Host", "GET / HTTP/1.1\r\nHost: m\xc3\xbcnchen.cf.localhost\r\n\r\n", "", 400, 0, "", ""},
		{"Host", "GET / HTTP/1.1\r\nHost: a.cf.localhost, b\r\n\r\n", "", 400, 0, "", ""},
		{"Host", "GET / HTTP/1.0\r\n\r\n", "", 404, 400, "", ""},
		{"method", get("TRACE / HTTP/1.1", ""), "", 405, 0, "", ""},
		{"method", "CONNECT a.cf.localhost:80 HTTP/1.1\r\nHost: a.cf.localhost:80\r\n\r\n", "", 400, 405, "", ""},
		{"method", get("get / HTTP/1.1", ""), "", 400, 0, "", ""},
		{"method", get("OPTIONS * HTTP/1.1", ""), "", 400, 0, "", ""},
		{"method", get("M-SEARCH / HTTP/1.1", ""), "", 200, 0, "M-SEARCH / HTTP/1.1", ""},
		{"version", get("GET / HTTP/2.0", ""), "", 505, 0, "", ""},
		{"version", get("GET / HTTP/1.0", ""), "", 200, 0, "GET / HTTP/1.1", ""},
		{"version", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "", 400, 0, "", ""},
		{"two lengths", post("Content-Length: 1\r\nContent-Length: 2\r\n", "xx"), "", 400, 0, "", ""},
		{"two lengths", post("Content-Length: 1\r\nContent-Length: 1\r\n", "x"), "", 400, 200, "", ""},
		{"a length and chunks", post("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), "", 400, 200, "", "Content-Length"},
		{"a length and chunks", get("POST / HTTP/1.0", "Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\n", "", 400, 200, "", "keep-alive"},
		{"two lengths", post("Content-Length: 1, 1\r\n", "x"), "", 400, 0, "", ""},
		{"no length", post("Content-Length: +1\r\n", "x"), "", 400, 0, "", ""},
		{"no length", post("Content-Length: 99999999999999999999\r\n", "x"), "", 400, 0, "", ""},
		{"chunks", post("Transfer-Encoding: chunked\r\n", "zz\r\n\r\n"), "", 400, 0, "", ""},
		{"chunks", post("Transfer-Encoding: chunked\r\n", "1\r\nxx\r\n0\r\n\r\n"), "", 400, 0, "", ""},
		{"chunks", post("Transfer-Encoding: chunked\r\n", "0x1\r\nx\r\n0\r\n\r\n"), "", 400, 0, "", ""},
		{"chunks", post("Transfer-Encoding: Chunked\r\n", "1;a=b\r\nx\r\n0\r\n\r\n"), "", 200, 0, "", ""},
		{"transfer encoding", post("Transfer-Encoding: identity\r\n", ""), "", 501, 0, "", ""},
		{"transfer encoding", post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"), "", 501, 0, "", ""},
		{"expectation", post("Expect: 100-continue\r\nContent-Length: 1\r\n", "x"), "", 200, 0, "", ""},
		{"expectation", post("Expect: something\r\nContent-Length: 1\r\n", "x"), "", 200, 417, "", ""},
		{"hop-by-hop headers", get("GET / HTTP/1.1", "Connection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 3\r\nProxy-Connection: x\r\n"), "", 200, 0, "", "Keep-Alive"},
		{"upgrade", get("GET / HTTP/1.1", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"), "", 200, 0, "", "h2c"},
		{"who asks", get("GET / HTTP/1.1", "Proxy: x\r\nX_Forwarded_Proto: https\r\n"), "", 200, 0, "X-Forwarded-Proto: http\r\n", "https"},
		{"who asks", get("GET / HTTP/1.1", ""), "", 200, 0, "X-Request-Id: ", ""},

		{"head of an answer", app(okHead + "A: " + strings.Repeat("a", 60*kb) + "\r\nContent-Length: 0\r\n\r\n"), "", 200, 0, "", ""},
		{"head of an answer", app(okHead + strings.Repeat("A: b\r\n", 10000) + "Content-Length: 0\r\n\r\n"), "", 200, 0, "", ""},
		{"head of an answer", app(okHead + "A: " + strings.Repeat("a", 64*kb) + "\r\nContent-Length: 0\r\n\r\n"), "", 502, 0, "THE HEADERS OF THE APP'S ANSWER ARE LARGER THAN 64 KB", ""},
		{"interim answers", app("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + empty), "", 200, 0, "", "Link"},
		{"status", app("HTTP/1.1 099 Low\r\nContent-Length: 0\r\n\r\n"), "", 502, 0, "ITS STATUS IS 099", ""},
		{"status", app("HTTP/1.1 799 High\r\nContent-Length: 0\r\n\r\n"), "", 799, 0, "", ""},
		{"status", app("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"), "", 502, 0, "", ""},
		{"garbage", app("\x16\x03\x01\r\n\r\n"), "", 502, 0, "WHAT IS NOT HTTP", ""},
		{"garbage", app(okHead + "A: a\x01b\r\n\r\n"), "", 502, 0, "WHAT IS NOT HTTP", ""},
		{"type of an answer", app(okHead + "Content-Length: 6\r\n\r\n<html>"), "", 200, 0, "<html>", "Content-Type"},
		{"headers of an answer", app(okHead + "Server: me\r\nX_Under: 1\r\nX-Accel-Redirect: /x\r\nKeep-Alive: 3\r\nContent-Length: 0\r\n\r\n"), "", 200, 0, "Server: me\nX-Accel-Redirect: /x", "Keep-Alive"},
		{"trailers", app(okHead + "Transfer-Encoding: chunked\r\nTrailer: T\r\n\r\n1\r\nx\r\n0\r\nT: 1\r\n\r\n"), "", 200, 0, "x", ""},
		{"time to answer", app(""), "", 504, 0, "THE APP DID NOT ANSWER WITHIN 1.5s", ""},
		{"pause in an answer", app(okHead + "Content-Length: 10\r\n\r\nhalf"), "", 200, 0, "half and then unexpected EOF", ""},
		{"lengths of an answer", app(okHead + "Content-Length: 4\r\nContent-Length: 5\r\n\r\nhalf!"), "", 502, 0, "", ""},
		{"lengths of an answer", app(okHead + "Content-Length: 2\r\n\r\nmore"), "", 200, 0, "mo", "more"},
	} {
		if _, ok := rows[tc.row]; !ok {
			t.Fatalf("LIMITS.md has no row %q", tc.row)
		}
		rows[tc.row] = true
		for i, address := range []string{p.address + ":8080", p.routers[0].Address()} {
			want := tc.lb
			if i == 1 && tc.router < 0 {
				continue
			}
			if i == 1 && tc.router > 0 {
				want = tc.router
			}
			status, header, body := exchanged(t, address, tc.request, tc.drop)
			text := new(strings.Builder)
			for _, name := range []string{"Server", "X-Accel-Redirect", "Link", "Content-Type", "Keep-Alive", "Connection"} {
				if values := header[name]; len(values) > 0 && !(status >= 400 && name == "Content-Type") {
					fmt.Fprintf(text, "%s: %s\n", name, strings.Join(values, "|"))
				}
			}
			text.WriteString(body)
			if lacks := tc.lacks != "" && strings.Contains(text.String(), tc.lacks); status != want || !strings.Contains(text.String(), tc.says) || lacks {
				t.Errorf("%s, %.60q, at %s: %d %.700q, want %d %q without %q", tc.row, tc.request, []string{"nginx", "a router"}[i], status, text, want, tc.says, tc.lacks)
			}
		}
	}
	for row, met := range rows {
		if !met && !strings.HasPrefix(row, "(") {
			t.Errorf("no case meets the row %q of LIMITS.md", row)
		}
	}
}

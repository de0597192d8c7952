package uaa

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/clusterworks/deploy/jobs/component/passwords"
	"github.com/clusterworks/deploy/jobs/wire"
)

// TestAuthorizeRefuses is a table of attacks on the beginning of a login. Where the
// client or its redirect URI is not known, the browser stays here; else it tells the
// client, with no code.
func TestAuthorizeRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	vmc := func(changes ...string) url.Values {
		return asking(append([]string{"client_id", "vmc", "redirect_uri", "http://127.0.0.1:5000/callback"}, changes...)...)
	}
	for name, try := range map[string]struct {
		asked url.Values
		error string // that the client hears; "": the browser stays
	}{
		"unknown client":              {asking("client_id", "nobody"), ""},
		"no client":                   {asking("client_id", ""), ""},
		"no redirect URI":             {asking("redirect_uri", ""), ""},
		"foreign redirect URI":        {asking("redirect_uri", "https://evil.example/back"), ""},
		"another client's":            {asking("redirect_uri", "https://other.example/back"), ""},
		"longer path":                 {asking("redirect_uri", webURI+"/more"), ""},
		"dots":                        {asking("redirect_uri", webURI+"/../back"), ""},
		"another query":               {asking("redirect_uri", webURI+"?x=2"), ""},
		"a fragment":                  {asking("redirect_uri", webURI+"#x"), ""},
		"a user":                      {asking("redirect_uri", "https://page.example@evil.example/back"), ""},
		"another case":                {asking("redirect_uri", "https://PAGE.example/back"), ""},
		"a port":                      {asking("redirect_uri", "https://page.example:444/back"), ""},
		"without TLS":                 {asking("redirect_uri", "http://page.example/back"), ""},
		"a script":                    {asking("redirect_uri", "javascript:alert(1)"), ""},
		"encoded":                     {asking("redirect_uri", "https://page.example/%62ack"), ""},
		"localhost by name":           {vmc("redirect_uri", "http://localhost:5000/callback"), ""},
		"loopback, another path":      {vmc("redirect_uri", "http://127.0.0.1:5000/evil"), ""},
		"loopback, another address":   {vmc("redirect_uri", "http://127.0.0.2:5000/callback"), ""},
		"loopback, a user":            {vmc("redirect_uri", "http://127.0.0.1:5000@evil.example/callback"), ""},
		"loopback, a query":           {vmc("redirect_uri", "http://127.0.0.1:5000/callback?x"), ""},
		"loopback over TLS":           {vmc("redirect_uri", "https://127.0.0.1:5000/callback"), ""},
		"a client without such grant": {asking("client_id", "robot"), ""},
		"two redirect URIs":           {func() url.Values { f := asking(); f.Add("redirect_uri", "https://evil.example/"); return f }(), ""},
		"two states":                  {func() url.Values { f := asking(); f.Add("state", "x"); return f }(), ""},

		"implicit flow":              {asking("response_type", "token"), "unauthorized_client"},
		"ID token in the URL":        {asking("response_type", "id_token"), "unauthorized_client"},
		"public client without PKCE": {vmc("code_challenge", "", "code_challenge_method", ""), "invalid_request"},
		"PKCE in plain text":         {vmc("code_challenge_method", "plain"), "invalid_request"},
		"PKCE without a method":      {vmc("code_challenge_method", ""), "invalid_request"},
		"a challenge that is none":   {asking("code_challenge", "short"), "invalid_request"},
		"a form that sends itself":   {asking("response_mode", "form_post"), "invalid_request"},
		"an answer in the fragment":  {asking("response_mode", "fragment"), "invalid_request"},
		"no login page":              {asking("prompt", "none"), "login_required"},
		"a request object":           {asking("request", "eyJhbGciOiJub25lIn0.e30."), "request_not_supported"},
		"a state that fills memory":  {asking("state", strings.Repeat("x", most+1)), "invalid_request"},
		"no scope":                   {asking("scope", ""), "invalid_request"},
	} {
		a := w.get(w.browser(), pathAuthorize+"?"+try.asked.Encode())
		target := a.header.Get("Location")
		if try.error == "" {
			if a.status != http.StatusBadRequest || target != "" || strings.Contains(a.body, "evil") {
				t.Errorf("%s: %d to %q", name, a.status, target)
			}
			continue
		}
		at, err := url.Parse(target)
		must(t, err)
		query := at.Query()
		if fragment, err := url.ParseQuery(at.Fragment); err == nil && query.Get("error") == "" {
			query = fragment
		}
		if a.status != http.StatusFound || !strings.HasPrefix(target, try.asked.Get("redirect_uri")) || query.Get("error") != try.error || query.Has("code") {
			t.Errorf("%s: %d to %q, want error %s", name, a.status, target, try.error)
		}
	}
	// The library's own way back from the login page, on which whoever knows a request
	// could fetch its code, is not there.
	if a := w.get(w.browser(), pathAuthorize+"/callback?id=x"); a.status != http.StatusNotFound {
		t.Errorf("the callback: %+v", a)
	}
	for _, path := range []string{"/device_authorization", "/logout", "/healthz", "/internal/accounts"} {
		if a := w.get(w.browser(), path); a.status != http.StatusNotFound {
			t.Errorf("%s: %+v", path, a)
		}
	}
}

// TestLoginPageAttacks: the page belongs to one browser, is in nobody's frame, and takes
// only its own form.
func TestLoginPageAttacks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.account("dev@example.com")
	c, thief := w.browser(), w.browser()
	a := w.get(c, pathAuthorize+"?"+asking().Encode())
	cookies := (&http.Response{Header: a.header}).Cookies()
	if len(cookies) != 1 || !cookies[0].HttpOnly || cookies[0].SameSite != http.SameSiteLaxMode || cookies[0].Domain != "" || cookies[0].Path != "/" || cookies[0].Secure {
		t.Errorf("cookies %+v", cookies)
	}
	at := a.header.Get("Location")
	shown := w.get(c, at)
	for name, want := range map[string]string{
		"Content-Security-Policy": "default-src 'none'; style-src 'self'; form-action 'self' https://page.example; frame-ancestors 'none'; base-uri 'none'",
		"X-Frame-Options":         "DENY", "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin",
		"Access-Control-Allow-Origin": "",
	} {
		if got := shown.header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if strings.Contains(shown.body, "<script") || strings.Contains(shown.body, "style=") {
		t.Error("the page has scripts or styles that the policy does not let in")
	}
	if got := w.get(thief, at); got.status != http.StatusBadRequest || strings.Contains(got.body, "<form") {
		t.Errorf("a page in another browser: %+v", got)
	}
	w.get(thief, pathAuthorize+"?"+asking().Encode())
	if got := w.get(thief, at); got.status != http.StatusBadRequest {
		t.Errorf("a page in another browser that has begun a login, too: %+v", got)
	}
	hinted := w.get(c, w.get(c, pathAuthorize+"?"+asking("login_hint", `"><script>alert(1)</script>`).Encode()).header.Get("Location"))
	if hinted.status != 200 || strings.Contains(hinted.body, "<script") {
		t.Errorf("what the client says is in the page as it is:\n%s", hinted.body)
	}

	fields := w.begin(c, asking())
	with := func(changes ...string) url.Values {
		f := form("id", fields.Get("id"), "token", fields.Get("token"), "email", "dev@example.com", "password", "secret of dev@example.com")
		for i := 0; i < len(changes); i += 2 {
			f.Set(changes[i], changes[i+1])
		}
		return f
	}
	other := w.begin(thief, asking())
	for name, try := range map[string]struct {
		browser *http.Client
		fields  url.Values
		origin  string
		status  int
	}{
		"a foreign page":         {c, with(), "https://evil.example", 403},
		"an app of the domain":   {c, with(), "http://evil.localhost", 403},
		"no origin":              {c, with(), "", 403},
		"a sandboxed frame":      {c, with(), "null", 403},
		"no token":               {c, with("token", ""), w.url, 403},
		"another page's token":   {c, with("token", other.Get("token")), w.url, 403},
		"another browser's page": {c, with("id", other.Get("id"), "token", other.Get("token")), w.url, 400},
		"no cookie":              {w.browser(), with(), w.url, 400},
		"a forged login":         {c, with("id", "AAAA"+fields.Get("id")[4:]), w.url, 400},
		"a wrong password":       {c, with("password", "guess"), w.url, 401},
		"nobody":                 {c, with("email", "nobody@example.com"), w.url, 401},
		"an impossible name":     {c, with("email", "a\x00b"), w.url, 401},
	} {
		if a := w.submit(try.browser, try.fields, try.origin); a.status != try.status || a.header.Get("Location") != "" {
			t.Errorf("%s: %+v", name, a)
		}
	}
	if a := w.submit(c, with(), w.url); a.status != http.StatusSeeOther {
		t.Errorf("the page itself: %+v", a)
	}
	// Under TLS, cookies are safe from other hosts of the domain, and browsers stay with it.
	p := &parts{start: Config{URL: "https://uaa.example.com"}}
	if p.cookieName() != "__Host-uaa" {
		t.Errorf("under TLS the cookie is %s", p.cookieName())
	}
}

// TestCodesAreBoundAndUsedOnce is a table of attacks on a code.
func TestCodesAreBoundAndUsedOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.account("dev@example.com")
	for name, try := range map[string]struct {
		form   func(code string) url.Values
		client []string
		error  string
	}{
		"another client":       {func(code string) url.Values { return codeForm(code) }, []string{"other", "secret of the other one"}, "invalid_grant"},
		"a public client":      {func(code string) url.Values { return codeForm(code, "client_id", "vmc") }, nil, "invalid_grant"},
		"without the secret":   {func(code string) url.Values { return codeForm(code, "client_id", "page") }, nil, "invalid_client"},
		"a wrong secret":       {func(code string) url.Values { return codeForm(code) }, []string{"page", "guess"}, "invalid_client"},
		"a wrong verifier":     {func(code string) url.Values { return codeForm(code, "code_verifier", verifier+"x") }, []string{"page", pageSecret}, "invalid_grant"},
		"no verifier":          {func(code string) url.Values { return codeForm(code, "code_verifier", "") }, []string{"page", pageSecret}, "invalid_request"},
		"another redirect URI": {func(code string) url.Values { return codeForm(code, "redirect_uri", webURI+"?x=1") }, []string{"page", pageSecret}, "invalid_grant"},
		"no redirect URI":      {func(code string) url.Values { return codeForm(code, "redirect_uri", "") }, []string{"page", pageSecret}, "invalid_grant"},
		"a code that is none":  {func(string) url.Values { return codeForm("nonsense") }, []string{"page", pageSecret}, "invalid_grant"},
		"two codes":            {func(code string) url.Values { f := codeForm(code); f.Add("code", "x"); return f }, []string{"page", pageSecret}, "invalid_request"},
		"a client's own key":   {func(code string) url.Values { return codeForm(code, "client_assertion", "x") }, nil, "invalid_client"},
		"a grant of no use here": {func(code string) url.Values {
			return codeForm(code, "grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer")
		}, nil, "unsupported_grant_type"},
	} {
		code := w.code(asking(), "dev@example.com").Get("code")
		if a := w.post(pathToken, try.form(code), try.client...); a.field("error") != try.error || a.field("access_token") != "" || a.status < 400 || a.status > 499 {
			t.Errorf("%s: %+v, want %s", name, a, try.error)
		}
	}

	// Of many at once one gets tokens, and those end: the code was stolen.
	code := w.code(asking(), "dev@example.com").Get("code")
	answers := make([]answer, 8)
	var all sync.WaitGroup
	for i := range answers {
		all.Go(func() { answers[i] = w.post(pathToken, codeForm(code), "page", pageSecret) })
	}
	all.Wait()
	got := 0
	for _, a := range answers {
		if a.field("access_token") == "" {
			continue
		}
		if got++; a.field("refresh_token") != "" {
			if next := w.post(pathToken, form("grant_type", "refresh_token", "refresh_token", a.field("refresh_token")), "page", pageSecret); next.status != 400 {
				t.Errorf("a login whose code was used twice goes on: %+v", next)
			}
		}
	}
	if got > 1 {
		t.Errorf("a code was used %d times", got)
	}
	for range 2 { // in any order
		if a := w.post(pathToken, codeForm(code), "page", pageSecret); a.field("error") != "invalid_grant" {
			t.Errorf("again: %+v", a)
		}
	}
	// A password that changes ends codes under way.
	code = w.code(asking(), "dev@example.com").Get("code")
	w.controller("PUT", wire.UAAAccounts+"/dev@example.com", wire.UAAPassword{Password: "another one"})
	if a := w.post(pathToken, codeForm(code), "page", pageSecret); a.field("error") != "invalid_grant" {
		t.Errorf("after a new password: %+v", a)
	}
}

// TestRefreshTokensAreUsedOnce: whoever uses one again ends the login, for the thief and
// for the owner; another client's is of no use.
func TestRefreshTokensAreUsedOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.account("dev@example.com")
	refresh := func(token string, client ...string) answer {
		f := form("grant_type", "refresh_token", "refresh_token", token)
		if len(client) == 0 {
			f.Set("client_id", "vmc")
		}
		return w.post(pathToken, f, client...)
	}
	first := w.post(pathToken, passwordForm("dev@example.com"))
	if a := refresh(first.field("refresh_token"), "page", pageSecret); a.field("error") != "invalid_grant" {
		t.Errorf("another client: %+v", a)
	}
	if a := w.post(pathToken, form("grant_type", "refresh_token", "client_id", "vmc", "refresh_token", first.field("refresh_token"), "scope", "openid lamps")); a.field("error") != "invalid_scope" {
		t.Errorf("more scopes: %+v", a)
	}
	second := refresh(first.field("refresh_token"))
	if second.status != 200 {
		t.Fatalf("%+v", second)
	}
	if a := refresh(first.field("refresh_token")); a.field("error") != "invalid_grant" {
		t.Errorf("the thief: %+v", a)
	}
	if a := refresh(second.field("refresh_token")); a.field("error") != "invalid_grant" {
		t.Errorf("the owner is not told: %+v", a)
	}
	// At the same time, too.
	for range 5 {
		token := w.post(pathToken, passwordForm("dev@example.com")).field("refresh_token")
		answers := make([]answer, 6)
		var all sync.WaitGroup
		for i := range answers {
			all.Go(func() { answers[i] = refresh(token) })
		}
		all.Wait()
		got := 0
		for _, a := range answers {
			if a.status != 200 {
				continue
			}
			if got++; refresh(a.field("refresh_token")).status == 200 {
				t.Error("a login whose token was used at the same time goes on")
			}
		}
		if got > 1 {
			t.Errorf("a refresh token was used %d times", got)
		}
	}
}

// TestTokenEndpointRefuses is a table of attacks on the other grants.
func TestTokenEndpointRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.account("dev@example.com")
	password := func(changes ...string) url.Values {
		f := passwordForm("dev@example.com")
		for i := 0; i < len(changes); i += 2 {
			f.Set(changes[i], changes[i+1])
		}
		return f
	}
	for name, try := range map[string]struct {
		form   url.Values
		client []string
		status int
		error  string
	}{
		"a wrong password":            {password("password", "guess"), nil, 400, "invalid_grant"},
		"no password":                 {password("password", ""), nil, 400, "invalid_grant"},
		"nobody":                      {password("username", "nobody@example.com"), nil, 400, "invalid_grant"},
		"an impossible name":          {password("username", "a\x00b"), nil, 400, "invalid_grant"},
		"a scope of another client":   {password("scope", "openid lamps"), nil, 400, "invalid_scope"},
		"no client":                   {password("client_id", "nobody"), nil, 401, "invalid_client"},
		"a client that may not":       {password(), []string{"page", pageSecret}, 400, "unauthorized_client"},
		"a client without its secret": {password("client_id", "page"), nil, 401, "invalid_client"},
		"a secret for vmc":            {password("client_secret", "x"), nil, 401, "invalid_client"},
		"a robot's wrong secret":      {form("grant_type", "client_credentials"), []string{"robot", "guess"}, 401, "invalid_client"},
		"a public robot":              {form("grant_type", "client_credentials", "client_id", "vmc"), nil, 401, "invalid_client"},
		"a page that is no robot":     {form("grant_type", "client_credentials"), []string{"page", pageSecret}, 400, "unauthorized_client"},
		"a robot that wants more":     {form("grant_type", "client_credentials", "scope", "cloud_controller"), []string{"robot", robotSecret}, 400, "invalid_scope"},
		"a device":                    {form("grant_type", "urn:ietf:params:oauth:grant-type:device_code"), nil, 400, "unsupported_grant_type"},
		"another token":               {form("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"), nil, 400, "unsupported_grant_type"},
		"nothing":                     {form(), nil, 400, "unsupported_grant_type"},
	} {
		if a := w.post(pathToken, try.form, try.client...); a.status != try.status || a.field("error") != try.error || a.field("access_token") != "" {
			t.Errorf("%s: %+v, want %d %s", name, a, try.status, try.error)
		}
	}
	if a := w.post(pathToken+"?"+password().Encode(), form()); a.status != 400 || a.field("access_token") != "" {
		t.Errorf("secrets in the URL: %+v", a)
	}
	if a := w.get(w.browser(), pathToken+"?"+password().Encode()); a.status != http.StatusMethodNotAllowed {
		t.Errorf("GET: %+v", a)
	}
	if a := w.post(pathToken, password("username", strings.Repeat("x", maxBody))); a.status != 400 {
		t.Errorf("too much: %+v", a)
	}
	for name, token := range map[string]string{"none": "", "nonsense": "x.y.z", "unsigned": "eyJhbGciOiJub25lIn0.e30."} {
		request, err := http.NewRequest("GET", w.url+pathUserinfo, nil)
		must(t, err)
		request.Header.Set("Authorization", "Bearer "+token)
		if a := w.do(w.browser(), request); a.status != http.StatusUnauthorized {
			t.Errorf("userinfo with %s: %+v", name, a)
		}
	}
	if a := w.post(pathIntrospect, form("token", "x", "client_id", "vmc")); a.status != http.StatusUnauthorized {
		t.Errorf("who is no client asks about tokens: %+v", a)
	}
	request, err := http.NewRequest("GET", "http://"+w.uaa.internal.Addr().String()+wire.UAAAccounts, nil)
	must(t, err)
	for _, guess := range []string{"", "guess", pageSecret} {
		request.SetBasicAuth("cloud_controller", guess)
		if a := w.do(w.browser(), request); a.status != http.StatusUnauthorized || a.body != "" {
			t.Errorf("the controllers' port with %q: %+v", guess, a)
		}
	}
}

// TestOnlyAccessTokensCount: neither an ID token nor what a stranger encrypts for the
// library, with its key of zeros, passes for an access token.
func TestOnlyAccessTokensCount(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.account("dev@example.com")
	got := w.post(pathToken, passwordForm("dev@example.com"))
	subject, _ := w.claims(got.field("access_token"))["sub"].(string)
	encrypt := func(text string) string {
		block, err := aes.NewCipher(make([]byte, 32))
		must(t, err)
		sealed := make([]byte, aes.BlockSize+len(text))
		//lint:ignore SA1019 the library's cipher
		cipher.NewCFBEncrypter(block, sealed[:aes.BlockSize]).XORKeyStream(sealed[aes.BlockSize:], []byte(text))
		return base64.RawURLEncoding.EncodeToString(sealed)
	}
	for name, token := range map[string]string{"an ID token": got.field("id_token"), "forged for a user": encrypt("x:" + subject), "forged for a robot": encrypt("x:robot")} {
		request, err := http.NewRequest("GET", w.url+pathUserinfo, nil)
		must(t, err)
		request.Header.Set("Authorization", "Bearer "+token)
		if a := w.do(w.browser(), request); a.status != http.StatusUnauthorized && a.status != http.StatusForbidden || strings.Contains(a.body, "dev@") {
			t.Errorf("%s at userinfo: %+v", name, a)
		}
		if a := w.post(pathIntrospect, form("token", token), "page", pageSecret); a.body != "{\"active\":false}\n" {
			t.Errorf("%s at introspection: %+v", name, a)
		}
	}
	access := got.field("access_token")
	if a := w.post(pathRevoke, form("token", access), "page", pageSecret); a.status != http.StatusBadRequest || !w.active(access) {
		t.Errorf("a client revokes another one's token: %+v", a)
	}
	var told struct {
		ClientID string `json:"client_id"`
		Scope    string
		Aud      []string
		Exp, Iat int64
	}
	must(t, json.Unmarshal([]byte(w.post(pathIntrospect, form("token", access), "page", pageSecret).body), &told))
	if told.ClientID != "vmc" || !slices.Equal(told.Aud, []string{"vmc", controllerScope}) || !strings.Contains(told.Scope, controllerScope) || told.Exp <= told.Iat {
		t.Errorf("introspection does not say for whom the token is: %+v", told)
	}
}

// TestGuessesAreSlowed: page, grants and controllers count together, for an account and
// an address; what a client says of its address does not count, unless a router says it.
func TestGuessesAreSlowed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.account("dev@example.com")
	c := w.browser()
	fields := w.begin(c, asking())
	fields.Set("email", "dev@example.com")
	fields.Set("password", "guess")
	guess := passwordForm("dev@example.com")
	guess.Set("password", "guess")
	for n := range passwords.LoginBurst {
		var a answer
		switch n % 3 {
		case 0:
			a = w.post(pathToken, guess)
		case 1:
			a = w.submit(c, fields, w.url)
		case 2:
			a = w.controller("POST", wire.UAACheck, wire.UAALogin{Email: "dev@example.com", Password: "guess", Address: "127.0.0.1"})
		}
		if a.status == http.StatusTooManyRequests || a.status == 200 {
			t.Fatalf("guess %d: %+v", n, a)
		}
	}
	right := passwordForm("dev@example.com")
	for name, a := range map[string]answer{
		"grant":      w.post(pathToken, right),
		"page":       w.submit(c, fields, w.url),
		"controller": w.controller("POST", wire.UAACheck, wire.UAALogin{Email: "dev@example.com", Password: "secret of dev@example.com", Address: "127.0.0.1"}),
	} {
		if a.status != http.StatusTooManyRequests || a.header.Get("Retry-After") == "" {
			t.Errorf("%s: %+v", name, a)
		}
	}
	from := func(address, key string) answer {
		request, err := http.NewRequest("POST", w.url+pathToken, strings.NewReader(right.Encode()))
		must(t, err)
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		request.Header.Set("X-Real-Ip", address)
		request.Header.Set(wire.HeaderFrontKey, key)
		return w.do(w.browser(), request)
	}
	if a := from("10.1.2.3", "guess"); a.status != http.StatusTooManyRequests {
		t.Errorf("a client is believed: %+v", a)
	}
	if a := from("10.1.2.3", w.uaa.start.frontKey()); a.status != 200 {
		t.Errorf("the owner elsewhere is locked out: %+v", a)
	}
	// Clients' secrets are passwords, too.
	for range passwords.LoginBurst {
		w.post(pathToken, form("grant_type", "client_credentials"), "robot", "guess")
	}
	if a := w.post(pathToken, form("grant_type", "client_credentials"), "robot", robotSecret); a.status == 200 {
		t.Errorf("a robot's secret is guessed on: %+v", a)
	}
}

// TestConfigRefuses: clients that would let somebody in are refused.
func TestConfigRefuses(t *testing.T) {
	t.Parallel()
	fine := Client{Secret: "a secret of sixteen", Grants: []string{grantCode}, RedirectURIs: []string{"https://a.example/b"}}
	must(t, fine.check("page"))
	for name, change := range map[string]func(*Client) string{
		"vmc":                    func(*Client) string { return "vmc" },
		"a strange id":           func(*Client) string { return "A page" },
		"a short secret":         func(c *Client) string { c.Secret = "short"; return "page" },
		"no grants":              func(c *Client) string { c.Grants = nil; return "page" },
		"an unknown grant":       func(c *Client) string { c.Grants = append(c.Grants, "implicit"); return "page" },
		"a public robot":         func(c *Client) string { c.Secret, c.Grants = "", append(c.Grants, grantCredentials); return "page" },
		"passwords for all":      func(c *Client) string { c.Secret, c.Grants = "", append(c.Grants, grantPassword); return "page" },
		"no redirect URI":        func(c *Client) string { c.RedirectURIs = nil; return "page" },
		"plain text":             func(c *Client) string { c.RedirectURIs = []string{"http://a.example/b"}; return "page" },
		"localhost by name":      func(c *Client) string { c.RedirectURIs = []string{"http://localhost/b"}; return "page" },
		"a script":               func(c *Client) string { c.RedirectURIs = []string{"javascript:alert(1)"}; return "page" },
		"a fragment":             func(c *Client) string { c.RedirectURIs = []string{"https://a.example/b#c"}; return "page" },
		"a user in the URI":      func(c *Client) string { c.RedirectURIs = []string{"https://u@a.example/b"}; return "page" },
		"redirects for no grant": func(c *Client) string { c.Grants = []string{grantCredentials}; return "page" },
	} {
		c := fine
		if id := change(&c); c.check(id) == nil {
			t.Errorf("%s is taken: %s", name, fmt.Sprintf("%s %+v", id, c))
		}
	}
}

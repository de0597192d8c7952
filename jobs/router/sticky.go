package router

import (
	"net/http"
	"strings"
)

// stick binds a client's session to the instance that answers: when the app
// begins a session, and when the instance of the one that it has is gone.
func (x *exchange) stick(res *http.Response) {
	if x.backend.Session == "" {
		return
	}
	for _, cookie := range res.Cookies() {
		if !strings.EqualFold(cookie.Name, sessionCookie) {
			continue
		}
		// A browser must send both or none.
		bound := &http.Cookie{
			Name: stickyCookie, Value: x.backend.Session, Path: "/", HttpOnly: true,
			Secure: cookie.Secure, SameSite: cookie.SameSite, Partitioned: cookie.Partitioned,
			MaxAge: min(cookie.MaxAge, 0), // when the session ends, so does this
		}
		res.Header.Add("Set-Cookie", bound.String())
		return
	}
	if x.session != "" && x.session != x.backend.Session {
		moved := &http.Cookie{
			Name: stickyCookie, Value: x.backend.Session, Path: "/", HttpOnly: true,
			Secure: x.secure,
		}
		res.Header.Add("Set-Cookie", moved.String())
	}
}

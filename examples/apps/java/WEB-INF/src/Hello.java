import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** Answers with who it is: any web app for Tomcat 10 is pushed like this. */
public class Hello extends HttpServlet {
  @Override
  protected void service(HttpServletRequest request, HttpServletResponse response) throws IOException {
    int size = request.getInputStream().readAllBytes().length;
    response.setContentType("text/plain");
    response.getWriter().print("Hello from " + me("name", "java") + "/" + me("instance_index", "0")
        + ", in Java " + System.getProperty("java.version") + (size > 0 ? ", " + size + " bytes read" : "") + "\n");
  }

  /** A field of VCAP_APPLICATION, which is JSON on one line. */
  private static String me(String field, String absent) {
    String json = System.getenv("VCAP_APPLICATION");
    Matcher matcher = Pattern.compile("\"" + field + "\":\"?([^\",}]*)").matcher(json == null ? "" : json);
    return matcher.find() ? matcher.group(1) : absent;
  }
}
